/**
 * Owns the values of a calculation and what can be done with them: exact whole numbers, floating-point numbers and
 * quantities with a unit.
 *
 * Does not read expressions. Nothing here takes text, apart from unit names that match a fixed pattern: the parser,
 * evaluator and other ways into mathjs are never handed a caller's words.
 */
import { createRequire } from "node:module"
import type * as Mathjs from "mathjs"
import { CalculationFailed } from "./CalculatorTokens.ts"

/** Whole numbers are `bigint` while they stay exact, so that 2^100 and 30! come out right to the last digit. */
export type Value = bigint | number | Mathjs.Unit

let made: Mathjs.MathJsInstance | undefined

/**
 * Made for the first sum: starting takes less time and memory without. mathjs ships as 1,100 modules, which take 0.8 s to
 * import, and as one file with the same content, which takes 0.07.
 */
const math = (): Mathjs.MathJsInstance => {
  if (made !== undefined) return made
  const mathjs: typeof Mathjs = createRequire(import.meta.url)("mathjs/lib/browser/math.js")
  made = mathjs.create(mathjs.all ?? {})
  made.createUnit({
    nauticalmile: { definition: "1852 m", aliases: ["nauticalmiles"] },
    lightyear: { definition: "9460730472580800 m", aliases: ["lightyears"] },
    metre: { definition: "1 m", prefixes: "long", aliases: ["metres"] },
    pound: { definition: "1 lbm", aliases: ["pounds"] },
    horsepower: { definition: "1 hp" },
    cal: { definition: "4.184 J", prefixes: "short" },
    calorie: { definition: "4.184 J", prefixes: "long", aliases: ["calories"] }
  })
  return made
}

// Not by `createUnit`: it would make a unit of speed the one that all speeds are shown in.
const speeds: ReadonlyMap<string, readonly [distance: string, time: string]> = new Map([
  ["mph", ["mile", "h"]],
  ["kph", ["km", "h"]],
  ["kmh", ["km", "h"]],
  ["knot", ["nauticalmile", "h"]],
  ["knots", ["nauticalmile", "h"]]
])

/** About 1,230 digits. What would be larger goes on as a floating-point number. */
const maxBits = 4096
const maxWhole = 1n << BigInt(maxBits)
const maxFactorial = 450
const maxChosen = 500n

const bitsOf = (value: bigint): number => (value < 0n ? -value : value).toString(2).length

const isUnit = (value: Value): value is Mathjs.Unit => typeof value === "object"

/** As a floating-point number; a quantity of angle counts in radians where `angle` is set. */
const numberOf = (value: Value, what: string, angle = false): number => {
  if (!isUnit(value)) return Number(value)
  if (angle && value.hasBase("ANGLE")) return value.toNumber("rad")
  throw new CalculationFailed(`${what} takes a plain number, not a quantity with a unit.`)
}

const checked = (value: number): number => {
  if (Number.isNaN(value)) throw new CalculationFailed("There is no real number that is the result.")
  if (!Number.isFinite(value)) throw new CalculationFailed("The result is too large.")
  return value
}

const exact = (value: bigint): bigint | number =>
  value <= maxWhole && value >= -maxWhole ? value : checked(Number(value))

/** Runs one operation of mathjs on quantities. Its own messages name its types, so they are not passed on. */
const quantity = (operate: () => unknown, problem: string): Value => {
  let result: unknown
  try {
    result = operate()
  } catch {
    throw new CalculationFailed(problem)
  }
  if (typeof result === "number") return checked(result)
  if (!math().isUnit(result)) throw new CalculationFailed(problem)
  if (result.value !== null) checked(Number(result.value))
  return result
}

/** `bigint` means nothing to a unit. */
const plain = (value: Value): number | Mathjs.Unit =>
  typeof value === "bigint" ? checked(Number(value)) : value

const unlike = "Quantities of different kinds can't be added, subtracted or converted into each other."

export const add = (a: Value, b: Value): Value => {
  if (isUnit(a) || isUnit(b)) return quantity(() => math().add(plain(a), plain(b)), unlike)
  return typeof a === "bigint" && typeof b === "bigint" ? exact(a + b) : checked(Number(a) + Number(b))
}

export const negate = (a: Value): Value => {
  if (isUnit(a)) return quantity(() => math().unaryMinus(a), "This quantity can't be negated.")
  return -a
}

export const subtract = (a: Value, b: Value): Value => add(a, negate(b))

export const multiply = (a: Value, b: Value): Value => {
  if (isUnit(a) || isUnit(b)) {
    return quantity(() => math().multiply(plain(a), plain(b)), "These can't be multiplied.")
  }
  return typeof a === "bigint" && typeof b === "bigint" ? exact(a * b) : checked(Number(a) * Number(b))
}

export const divide = (a: Value, b: Value): Value => {
  if (!isUnit(b) && Number(b) === 0) throw new CalculationFailed("Division by zero.")
  if (isUnit(a) || isUnit(b)) {
    // mathjs's types have no divide for a mixed pair; its function has.
    return quantity(() => math().divide(plain(a) as number, plain(b) as number), "These can't be divided.")
  }
  if (typeof a === "bigint" && typeof b === "bigint" && a % b === 0n) return a / b
  return checked(Number(a) / Number(b))
}

/** The remainder with the sign of the divisor, as in mathjs, Python and everyday use. */
export const modulo = (a: Value, b: Value): Value => {
  const divisor = numberOf(b, "mod")
  if (divisor === 0) throw new CalculationFailed("Division by zero.")
  if (typeof a === "bigint" && typeof b === "bigint") return ((a % b) + b) % b
  const dividend = numberOf(a, "mod")
  return checked(dividend - divisor * Math.floor(dividend / divisor))
}

export const power = (a: Value, b: Value): Value => {
  const exponent = numberOf(b, "An exponent")
  if (isUnit(a)) {
    if (!Number.isInteger(exponent) || Math.abs(exponent) > 9) {
      throw new CalculationFailed("A quantity can only be raised to a whole power from -9 to 9.")
    }
    return quantity(() => math().pow(a, exponent), "This quantity can't be raised to a power.")
  }
  if (typeof a === "bigint" && typeof b === "bigint" && b >= 0n) {
    if (a === 0n || a === 1n) return b === 0n ? 1n : a
    // Estimated before it is computed: 9^9^9 has 370 million digits.
    if (b <= BigInt(maxBits) && (bitsOf(a) - 1) * Number(b) <= maxBits) return exact(a ** b)
  }
  if (Number(a) === 0 && exponent < 0) throw new CalculationFailed("Division by zero.")
  // An odd root of a negative number is real, though 1/3 as a float is not quite a third.
  const root = 1 / exponent
  const isOddRoot = Number(a) < 0 && Math.abs(root % 2) === 1
  return checked(isOddRoot ? -(Math.abs(Number(a)) ** exponent) : Number(a) ** exponent)
}

export const factorial = (a: Value): Value => {
  const value = numberOf(a, "A factorial")
  if (!Number.isInteger(value) || value < 0) {
    throw new CalculationFailed("A factorial takes a whole number of at least 0.")
  }
  if (value > maxFactorial) throw new CalculationFailed("The result is too large.")
  for (let n = factorials.length; n <= value; n++) factorials.push((factorials[n - 1] ?? 1n) * BigInt(n))
  return factorials[value] ?? 1n
}

/** Kept, since an expression can ask for hundreds. At most 450, some 100 kB. */
const factorials: Array<bigint> = [1n]

/** Expresses a quantity in another unit. Throws when it has none, or when the kinds differ. */
export const convert = (value: Value, target: Value): Value => {
  if (!isUnit(value)) throw new CalculationFailed("There is no unit to convert from.")
  if (!isUnit(target) || target.value !== null) throw new CalculationFailed("There is no unit to convert to.")
  return quantity(() => value.to(target), unlike)
}

const constants: ReadonlyMap<string, number> = new Map([
  ["pi", Math.PI],
  ["PI", Math.PI],
  ["tau", 2 * Math.PI],
  ["e", Math.E],
  ["E", Math.E],
  ["phi", (1 + Math.sqrt(5)) / 2]
])

/** A constant or a unit; `undefined` when it is neither. */
export const named = (name: string): Value | undefined => {
  const constant = constants.get(name)
  if (constant !== undefined) return constant
  if (!/^[a-z][a-z0-9]{0,29}$/iu.test(name)) return undefined
  const speed = speeds.get(name.toLowerCase())
  if (speed !== undefined) return divide(math().unit(speed[0]), math().unit(speed[1]))
  const unit = [name, name.toLowerCase()].find((spelling) => math().Unit.isValuelessUnit(spelling))
  return unit === undefined ? undefined : math().unit(unit)
}

type Apply = (...args: ReadonlyArray<Value>) => Value

const real =
  (name: string, apply: (...args: Array<number>) => number, isAngle = false): Apply =>
  (...args) =>
    checked(apply(...args.map((arg) => numberOf(arg, name, isAngle))))

/** Floating-point π is not quite π, so a true zero comes out as about 1e-16. */
const snapped = (value: number): number => (Math.abs(value) < 1e-15 ? 0 : value)

/** Leaves exact whole numbers as they are. */
const rounding =
  (name: string, apply: (value: number) => number): Apply =>
  (value) =>
    typeof value === "bigint" ? value : checked(apply(numberOf(value ?? 0, name)))

const round = (value: number, places = 0): number => {
  if (!Number.isInteger(places) || Math.abs(places) > 15) {
    throw new CalculationFailed("round takes a whole number of places from -15 to 15.")
  }
  // By way of the decimal text: 1.005 * 100 is 100.49999999999999.
  const shifted = Math.round(Number(`${Number(value.toPrecision(15))}e${places}`))
  return Number.isFinite(shifted) ? Number(`${shifted}e${-places}`) : value
}

const greatestCommonDivisor = (a: bigint, b: bigint): bigint => {
  let [x, y] = [a < 0n ? -a : a, b < 0n ? -b : b]
  while (y !== 0n) [x, y] = [y, x % y]
  return x
}

const wholes = (name: string, values: ReadonlyArray<Value>): ReadonlyArray<bigint> =>
  values.map((value) => {
    const number = numberOf(value, name)
    if (typeof value !== "bigint" && !Number.isInteger(number)) {
      throw new CalculationFailed(`${name} takes whole numbers.`)
    }
    return typeof value === "bigint" ? value : BigInt(number)
  })

/** `n (n-1) … (n-k+1)`, divided by `k!` where the order does not count. */
const choose =
  (name: string, isOrdered: boolean): Apply =>
  (...args) => {
    const [n = 0n, k = 0n] = wholes(name, args)
    if (k < 0n || n < k) throw new CalculationFailed(`${name} takes n and k with 0 ≤ k ≤ n.`)
    const count = !isOrdered && k > n - k ? n - k : k
    if (count > maxChosen) throw new CalculationFailed(`${name} can't count with numbers that large.`)
    let result = 1n
    for (let step = 0n; step < count; step++) {
      result = isOrdered ? result * (n - step) : (result * (n - step)) / (step + 1n)
      if (result > maxWhole) throw new CalculationFailed("The result is too large.")
    }
    return result
  }

const pick =
  (isBetter: (a: number, b: number) => boolean): Apply =>
  (...args) =>
    args.reduce((best, value) => (isBetter(numberOf(value, "min and max"), Number(best)) ? value : best))

const total: Apply = (...args) => args.reduce(add)
const mean: Apply = (...args) => divide(args.reduce(add), BigInt(args.length))
const median = (...args: Array<number>): number => {
  const sorted = args.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? 0
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? 0) + upper) / 2
}
/** Of a sample, so over n - 1, as in mathjs. */
const variance = (...args: Array<number>): number => {
  const average = args.reduce((sum, value) => sum + value, 0) / args.length
  return args.reduce((sum, value) => sum + (value - average) ** 2, 0) / (args.length - 1)
}

interface Function {
  readonly min: number
  readonly max: number
  readonly apply: Apply
}
const takes = (min: number, max: number, apply: Apply): Function => ({ min, max, apply })
const one = (name: string, apply: (value: number) => number, isAngle = false): [string, Function] => [
  name,
  takes(1, 1, real(name, apply, isAngle))
]
const many = (name: string, apply: Apply, min = 1): [string, Function] => [name, takes(min, 200, apply)]

/** All there are. A map, since an object would answer `constructor` too. */
const functions: ReadonlyMap<string, Function> = new Map<string, Function>([
  one("sqrt", Math.sqrt),
  one("cbrt", Math.cbrt),
  one("exp", Math.exp),
  one("ln", Math.log),
  one("log10", Math.log10),
  one("log2", Math.log2),
  [
    "log",
    takes(
      1,
      2,
      real("log", (value, base) => Math.log(value) / (base === undefined ? 1 : Math.log(base)))
    )
  ],
  one("sin", (value) => snapped(Math.sin(value)), true),
  one("cos", (value) => snapped(Math.cos(value)), true),
  one("tan", (value) => (snapped(Math.cos(value)) === 0 ? Number.NaN : snapped(Math.tan(value))), true),
  one("asin", Math.asin),
  one("acos", Math.acos),
  one("atan", Math.atan),
  ["atan2", takes(2, 2, real("atan2", Math.atan2))],
  one("sinh", Math.sinh),
  one("cosh", Math.cosh),
  one("tanh", Math.tanh),
  one("sign", Math.sign),
  ["abs", takes(1, 1, (value = 0n) => (numberOf(value, "abs") < 0 ? negate(value) : value))],
  ["floor", takes(1, 1, rounding("floor", Math.floor))],
  ["ceil", takes(1, 1, rounding("ceil", Math.ceil))],
  ["trunc", takes(1, 1, rounding("trunc", Math.trunc))],
  ["round", takes(1, 2, real("round", round))],
  ["pow", takes(2, 2, (a = 0n, b = 0n) => power(a, b))],
  ["root", takes(2, 2, (a = 0n, b = 1n) => power(a, divide(1n, b)))],
  ["mod", takes(2, 2, (a = 0n, b = 0n) => modulo(a, b))],
  ["factorial", takes(1, 1, (a = 0n) => factorial(a))],
  ["combinations", takes(2, 2, choose("combinations", false))],
  ["permutations", takes(2, 2, choose("permutations", true))],
  many("gcd", (...args) => wholes("gcd", args).reduce(greatestCommonDivisor)),
  many("lcm", (...args) =>
    wholes("lcm", args).reduce((a, b) => {
      const divisor = greatestCommonDivisor(a, b)
      const product = divisor === 0n ? 0n : (a / divisor) * b
      if (product > maxWhole || product < -maxWhole) throw new CalculationFailed("The result is too large.")
      return product < 0n ? -product : product
    })
  ),
  many("hypot", real("hypot", Math.hypot)),
  many(
    "min",
    pick((a, b) => a < b)
  ),
  many(
    "max",
    pick((a, b) => a > b)
  ),
  many("sum", total),
  many("mean", mean),
  many("average", mean),
  many("median", real("median", median)),
  many("variance", real("variance", variance), 2),
  many(
    "std",
    real("std", (...args) => Math.sqrt(variance(...args))),
    2
  )
])

export const isFunction = (name: string): boolean => functions.has(name.toLowerCase())

/** Calls a function by name. Throws when there is none, or when it takes another number of arguments. */
export const call = (name: string, args: ReadonlyArray<Value>): Value => {
  const found = functions.get(name.toLowerCase())
  if (found === undefined) throw new CalculationFailed(`There is no function named ${name}.`)
  if (args.length < found.min || args.length > found.max) {
    throw new CalculationFailed(`${name} does not take ${args.length} arguments.`)
  }
  return found.apply(...args)
}

/** 15 digits are as many as a float has for certain; the rest is the noise that makes 0.1 + 0.2 end in 4. */
const tidy = (value: number): number => (Number.isSafeInteger(value) ? value : Number(value.toPrecision(15)))

/**
 * What to show: a number where a JSON number holds it exactly enough, else text (whole numbers beyond 2^53 digit by
 * digit, quantities as `5.08 cm`).
 */
export const present = (value: Value): { readonly result: number | string; readonly formatted: string } => {
  if (isUnit(value)) {
    const text = value.format({ precision: 12, lowerExp: -9, upperExp: 15 })
    return { result: text, formatted: text }
  }
  if (typeof value === "number") {
    const result = tidy(value) + 0
    return { result, formatted: String(result) }
  }
  const text = value.toString()
  if (Number.isSafeInteger(Number(value))) return { result: Number(value), formatted: text }
  return { result: text, formatted: text.length <= 40 ? text : tidy(Number(value)).toExponential() }
}
