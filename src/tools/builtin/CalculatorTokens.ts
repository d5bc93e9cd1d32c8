/**
 * Owns how a calculation is spelt: it turns what people and models write into tokens.
 *
 * Does not know what the tokens mean together (`Calculator.ts` does) or which names exist (`CalculatorMath.ts` does).
 */

/** The expression can't be calculated. `message` is shown to the model and to people. */
export class CalculationFailed extends Error {}

export type Token =
  | { readonly kind: "number"; readonly value: number | bigint; readonly text: string }
  /** A constant, a unit or a function. */
  | { readonly kind: "name"; readonly text: string }
  /** `+ - * / ^ % ! ( ) ,` and the words `of`, `mod`, `to`, `sqrt` (the sign √). */
  | { readonly kind: "operator"; readonly text: string }
  | { readonly kind: "end"; readonly text: string }

const superscripts = "⁰¹²³⁴⁵⁶⁷⁸⁹"

/** Characters that mean an ASCII one. Compatibility normalisation (NFKC) won't do: it makes `5²` into `52`. */
const sameAs: Readonly<Record<string, string>> = {
  "×": "*",
  "✕": "*",
  "✖": "*",
  "·": "*",
  "⋅": "*",
  "∙": "*",
  "∗": "*",
  乘: "*",
  "÷": "/",
  "∕": "/",
  除: "/",
  "−": "-",
  "–": "-",
  "—": "-",
  减: "-",
  減: "-",
  加: "+",
  "→": " to ",
  π: " pi ",
  τ: " tau ",
  "℃": " degC ",
  "℉": " degF ",
  µ: "u",
  μ: "u",
  "\u3000": " ",
  "\u00a0": " ",
  "\u202f": " "
}

const asciiOf = (char: string): string => {
  const code = char.codePointAt(0) ?? 0
  // Full-width forms, U+FF01 to U+FF5E, mirror ASCII in order.
  if (code >= 0xff01 && code <= 0xff5e) return String.fromCodePoint(code - 0xfee0)
  return sameAs[char] ?? char
}

const normalise = (expression: string): string =>
  Array.from(expression.replaceAll("乘以", "*").replaceAll("除以", "/"), asciiOf)
    .join("")
    .replace(/⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]+/gu, (text) => {
      const digits = Array.from(text, (char) => (char === "⁻" ? "-" : String(superscripts.indexOf(char))))
      return `^(${digits.join("")})`
    })
    .replace(/°\s*([CF])\b/gu, " deg$1 ")
    .replaceAll("°", " deg ")
    .replaceAll("**", "^")
    .replaceAll("->", " to ")
    .replace(/\bMath\./gu, "")
    .replace(/\bdivided by\b/giu, "/")
    .replace(/\bmultiplied by\b/giu, "*")
    .replace(/\bto the power of\b/giu, "^")
    .replace(/[\s=?]+$/u, "")

const words: Readonly<Record<string, string>> = {
  of: "of",
  mod: "mod",
  to: "to",
  plus: "+",
  minus: "-",
  times: "*",
  x: "*",
  X: "*",
  per: "/",
  percent: "%"
}

const space = /\s+/uy
const radix = /0(?:x[0-9a-f]+|b[01]+|o[0-7]+)\b/iuy
const decimal = /(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?/iuy
const withCommas = /\d+,[\d,]*(?:\.\d+)?/uy
const name = /[a-z][a-z0-9_]*/iuy

/**
 * Reads an expression. Beside ASCII it takes full-width forms (１＋２), `× ÷ − ² √ π °C`, `加 减 乘 除`, the words
 * `plus`, `minus`, `times`, `of`, `mod`, `per`, `percent`, and thousands separators wherever a comma can't separate
 * arguments. Time is linear in the length. Throws `CalculationFailed`.
 */
export const tokenize = (expression: string): ReadonlyArray<Token> => {
  const source = normalise(expression)
  const tokens: Array<Token> = []
  /** For each open parenthesis, whether it follows a name and so holds arguments: there `1,234` is two of them. */
  const parentheses: Array<boolean> = []
  let at = 0
  const take = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = at
    const text = pattern.exec(source)?.[0]
    if (text !== undefined) at += text.length
    return text
  }

  while (at < source.length) {
    if (take(space) !== undefined) continue
    const group = parentheses.at(-1) === true ? undefined : take(withCommas)
    if (group !== undefined && !/^\d{1,3}(?:,\d{3})+(?:\.\d+)?$/u.test(group)) {
      throw new CalculationFailed(
        `${group.slice(0, 40)} is not a number: write thousands as 1,234 and decimals as 1.5.`
      )
    }
    const number = group?.replaceAll(",", "") ?? take(radix) ?? take(decimal)
    if (number !== undefined) {
      const isWhole = /^(?:\d+|0[xbo].*)$/iu.test(number)
      const value = isWhole ? BigInt(number) : Number(number)
      if (value === Number.POSITIVE_INFINITY) throw new CalculationFailed("A number is too large.")
      tokens.push({ kind: "number", value, text: number })
      continue
    }
    const word = take(name)
    if (word !== undefined) {
      // `7 mod 3` is an operator, `mod(7, 3)` a function.
      const isCall = word === "mod" && source[at] === "(" && !endsOperand(tokens.at(-1))
      const operator = Object.hasOwn(words, word) && !isCall ? words[word] : undefined
      tokens.push(
        operator === undefined ? { kind: "name", text: word } : { kind: "operator", text: operator }
      )
      continue
    }
    const char = String.fromCodePoint(source.codePointAt(at) ?? 0)
    at += char.length
    if (char === "(") {
      const before = tokens.at(-1)
      parentheses.push(before?.kind === "name")
    } else if (char === ")") {
      parentheses.pop()
    } else if (char === "√") {
      tokens.push({ kind: "operator", text: "sqrt" })
      continue
    }
    if (!"+-*/^%!(),".includes(char)) {
      throw new CalculationFailed(`${JSON.stringify(char)} is not understood in a calculation.`)
    }
    tokens.push({ kind: "operator", text: char })
  }
  return withInches(tokens)
}

const endsOperand = (token: Token | undefined): boolean =>
  token !== undefined && (token.kind !== "operator" || [")", "%", "!"].includes(token.text))

/**
 * Tells the unit `in` from the conversion `in`: it is inches right after a number, unless a unit follows
 * (`5 km in m` and `5 in to cm`), and wherever an operand must come (`cm to in`).
 */
const withInches = (tokens: ReadonlyArray<Token>): ReadonlyArray<Token> => {
  const result: Array<Token> = []
  for (const [index, token] of tokens.entries()) {
    const before = result.at(-1)
    const after = tokens[index + 1]
    const isInch =
      !endsOperand(before) || (before?.kind === "number" && (after?.kind !== "name" || after.text === "in"))
    const isConversion = token.kind === "name" && token.text === "in" && !isInch
    result.push(isConversion ? { kind: "operator", text: "to" } : token)
  }
  return result
}
