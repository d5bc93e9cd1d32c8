/**
 * Owns the tool `calculator`: the grammar of a calculation, and its evaluation while it is read.
 *
 * Does not use mathjs's parser. That one takes time exponential in nested `%` (`1%(1%(…`: 18 levels, 1.5 s), reads
 * `10% + 5` as a remainder, and knows assignment, indexing and functions that reach its own internals. This grammar
 * has none of those: a name is a constant, a unit or one of a fixed list of functions, and all work is linear in the
 * length of the text, over values of bounded size.
 */
import { Effect, Schema } from "effect"
import { defineTool, ToolFailed } from "../ToolDefinition.ts"
import * as Calc from "./CalculatorMath.ts"
import { CalculationFailed, type Token, tokenize } from "./CalculatorTokens.ts"

const maxLength = 1000
/** Keeps the recursion well within the stack. */
const maxDepth = 64
/** Operations on units cost some 50 µs each. */
const maxUnits = 32

/** A value, and how it was written where that changes its meaning. */
interface Operand {
  readonly value: Calc.Value
  /** Written as `n%`, which after `+` and `-` is a share of what stands before. */
  readonly isPercent: boolean
  /** Written as a number: `1/2 h` is half an hour, where `a/b h` is a per (b h). */
  readonly isLiteral: boolean
}

const plain = (value: Calc.Value): Operand => ({ value, isPercent: false, isLiteral: false })

/**
 * Calculates.
 *
 * Loosest first: `to` (also `in`), `+ -`, `* / mod of`, juxtaposition (`5 km`, `2(3+4)`), sign, `^` (from the right),
 * `! %`. `%` is a percentage, or a remainder when an operand follows. Throws `CalculationFailed`.
 */
export const evaluate = (expression: string): Calc.Value => {
  const tokens = tokenize(expression)
  let at = 0
  let depth = 0
  let units = 0

  const peek = (ahead = 0): Token => tokens[at + ahead] ?? { kind: "end", text: "" }
  const isOperator = (token: Token, ...texts: ReadonlyArray<string>) =>
    token.kind === "operator" && texts.includes(token.text)
  const accept = (...texts: ReadonlyArray<string>): string | undefined =>
    isOperator(peek(), ...texts) ? tokens[at++]?.text : undefined
  /** Whether a token can follow an operand without an operator between. */
  const isJuxtaposed = (token: Token) => token.kind === "name" || isOperator(token, "(", "sqrt")
  const startsOperand = (token: Token) => token.kind === "number" || isJuxtaposed(token)
  const unexpected = (): never => {
    const { kind, text } = peek()
    throw new CalculationFailed(
      kind === "end"
        ? "The expression ends too early."
        : `Unexpected ${JSON.stringify(text.slice(0, 40))} in the expression.`
    )
  }
  const deeper = (parse: () => Operand): Operand => {
    if (++depth > maxDepth) throw new CalculationFailed("The expression is nested too deeply.")
    const result = parse()
    depth--
    return result
  }

  const conversion = (): Operand => {
    let { value } = sum()
    while (accept("to") !== undefined) value = Calc.convert(value, product().value)
    return plain(value)
  }

  const sum = (): Operand => {
    let left = product()
    for (let operator = accept("+", "-"); operator !== undefined; operator = accept("+", "-")) {
      const right = product()
      const amount = right.isPercent && !left.isPercent ? Calc.multiply(left.value, right.value) : right.value
      const value = operator === "+" ? Calc.add(left.value, amount) : Calc.subtract(left.value, amount)
      left = { value, isPercent: left.isPercent && right.isPercent, isLiteral: false }
    }
    return left
  }

  const product = (): Operand => {
    let left = juxtaposed()
    for (;;) {
      if (accept("*", "of") !== undefined) left = plain(Calc.multiply(left.value, juxtaposed().value))
      else if (accept("mod", "%") !== undefined) left = plain(Calc.modulo(left.value, juxtaposed().value))
      else if (accept("/") === undefined) return left
      else if (left.isLiteral && peek().kind === "number" && isJuxtaposed(peek(1))) {
        left = juxtaposed(plain(Calc.divide(left.value, power().value)))
      } else left = plain(Calc.divide(left.value, juxtaposed().value))
    }
  }

  const juxtaposed = (first: Operand = signed()): Operand => {
    let left = first
    for (;;) {
      if (isJuxtaposed(peek())) left = plain(Calc.multiply(left.value, power().value))
      // `5 ft 11 in`: a number after a unit begins a further part of one quantity.
      else if (typeof left.value === "object" && peek().kind === "number" && peek(1).kind === "name") {
        left = plain(Calc.add(left.value, Calc.multiply(power().value, power().value)))
      } else return left
    }
  }

  const signed = (): Operand => {
    let isNegative = false
    for (let sign = accept("+", "-"); sign !== undefined; sign = accept("+", "-")) {
      if (sign === "-") isNegative = !isNegative
    }
    const operand = power()
    return isNegative ? { ...operand, value: Calc.negate(operand.value) } : operand
  }

  const power = (): Operand => {
    const base = postfix()
    if (accept("^") === undefined) return base
    return plain(Calc.power(base.value, deeper(signed).value))
  }

  const postfix = (): Operand => {
    let operand = primary()
    for (;;) {
      if (accept("!") !== undefined) operand = plain(Calc.factorial(operand.value))
      else if (isOperator(peek(), "%") && !startsOperand(peek(1))) {
        at++
        operand = { ...plain(Calc.divide(operand.value, 100n)), isPercent: true }
      } else return operand
    }
  }

  const primary = (): Operand => {
    const token = peek()
    at++
    if (token.kind === "number") return { value: token.value, isPercent: false, isLiteral: true }
    if (isOperator(token, "sqrt")) return plain(Calc.call("sqrt", [deeper(power).value]))
    if (isOperator(token, "(")) return closed(deeper(conversion))
    if (token.kind === "name") {
      if (Calc.isFunction(token.text) && accept("(") !== undefined) {
        const args = [deeper(conversion).value]
        while (accept(",") !== undefined) args.push(deeper(conversion).value)
        return closed(plain(Calc.call(token.text, args)))
      }
      const value = Calc.named(token.text)
      if (value === undefined) {
        throw new CalculationFailed(`There is nothing named ${JSON.stringify(token.text.slice(0, 40))} here.`)
      }
      if (typeof value === "object" && ++units > maxUnits) {
        throw new CalculationFailed("The expression has too many units.")
      }
      return plain(value)
    }
    at--
    return unexpected()
  }

  const closed = (operand: Operand): Operand => (accept(")") === undefined ? unexpected() : operand)

  const { value } = conversion()
  return peek().kind === "end" ? value : unexpected()
}

export const calculator = defineTool({
  name: "calculator",
  description:
    "Calculates. Takes + - * / ^ % and parentheses, percentages (15% of 80, 200 + 10%), units (2 inches to cm, 5 km/h in m/s), factorials, and functions such as sqrt, round, log (natural), log10, sin (radians, or sin(30 deg)), min, max, mean, combinations. Use it for every sum rather than reckoning yourself.",
  parameters: Schema.Struct({
    expression: Schema.String.check(Schema.isNonEmpty(), Schema.isMaxLength(maxLength)).annotate({
      description: "What to calculate, for example: (12.5 + 7.5) * 3"
    })
  }),
  success: Schema.Struct({
    expression: Schema.String,
    /** A number, or text for what a JSON number can't hold: long whole numbers and quantities with a unit. */
    result: Schema.Union([Schema.Finite, Schema.String]),
    formatted: Schema.String
  }),
  handler: ({ expression }) =>
    Effect.try({
      try: () => ({ expression, ...Calc.present(evaluate(expression)) }),
      catch: (error) => error
    }).pipe(
      Effect.catch((error) =>
        error instanceof CalculationFailed
          ? Effect.fail(new ToolFailed({ message: error.message, reason: "invalid" }))
          : Effect.die(error)
      )
    ),
  isIdempotent: true,
  spanName: "calculate"
})
