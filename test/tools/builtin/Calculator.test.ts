import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Effect, Schema } from "effect"
import { calculator, evaluate } from "../../../src/tools/builtin/Calculator.ts"
import { present } from "../../../src/tools/builtin/CalculatorMath.ts"
import { CalculationFailed } from "../../../src/tools/builtin/CalculatorTokens.ts"
import { Tools } from "../../../src/tools/Tools.ts"

const result = (expression: string) => present(evaluate(expression)).result
const failure = (expression: string): string => {
  try {
    return `no failure: ${String(result(expression))}`
  } catch (error) {
    if (error instanceof CalculationFailed) return error.message
    throw error
  }
}

describe("calculator", () => {
  it.each([
    ["0.1 + 0.2", 0.3],
    ["1,234.5 * 2", 2469],
    ["1.005 * 100", 100.5],
    ["-2^2", -4],
    ["2^3^2", 512],
    ["10 / 4", 2.5],
    ["(-8)^(1/3)", -2],
    ["-7 mod 3", 2],
    ["10 % 3", 1],
    ["2 * mod(-7, 3)", 4],
    ["2(3 + 4)", 14],
    ["1.5e3", 1500],
    ["0x1f", 31],
    ["5!", 120],
    ["log(100)", 4.60517018598809],
    ["log(8, 2)", 3],
    ["sin(30 deg)", 0.5],
    ["sin(pi)", 0],
    ["round(2.345, 2)", 2.35],
    ["mean(1, 2, 3, 4)", 2.5],
    ["median(3, 1, 2)", 2],
    ["std(1, 3, 5)", 2],
    ["combinations(49, 6)", 13_983_816],
    ["max(1,234)", 234],
    ["max((1,234), 5)", 1234]
  ])("%s = %s", (expression, expected) => assert.strictEqual(result(expression), expected))

  it.each([
    ["15% of 80", 12],
    ["200 + 10%", 220],
    ["200 - 10%", 180],
    ["20% of 50 + 3", 13],
    ["100 - 20% of 50", 90],
    ["10% + 5", 5.1],
    ["10% + 10%", 0.2],
    ["7%", 0.07],
    ["50 percent of 10", 5]
  ])("takes percentages: %s = %s", (expression, expected) => assert.strictEqual(result(expression), expected))

  it.each([
    ["2 inches to cm", "5.08 cm"],
    ["12 cm in in", "4.72440944882 in"],
    ["3 ft + 2 in to m", "0.9652 m"],
    ["5 ft 11 in to cm", "180.34 cm"],
    ["5 km/h in m/s", "1.38888888889 m / s"],
    ["60 km / 2 h", "30 km / h"],
    ["1/2 h to min", "30 min"],
    ["20 °C to °F", "68 degF"],
    ["100 mph to km/h", "160.9344 km / h"],
    ["50 km + 10%", "55 km"],
    ["2 km^2 to m^2", "2000000 m^2"]
  ])("takes units: %s = %s", (expression, expected) => assert.strictEqual(result(expression), expected))

  it.each([
    ["１＋２", 3],
    ["３×４÷２", 6],
    ["（５－３）＊２", 4],
    ["５，０００．５ × 2", 10_001],
    ["5−3", 2],
    ["5² + 2⁻¹", 25.5],
    ["√16 + √(9)", 7],
    ["3加4乘以2", 11],
    ["100 divided by 4 =", 25],
    ["2 ** 10", 1024],
    ["Math.sqrt(2 * 8)", 4]
  ])("takes what people write: %s = %s", (expression, expected) =>
    assert.strictEqual(result(expression), expected)
  )

  it("keeps whole numbers exact beyond what a float holds", () => {
    assert.strictEqual(result("2^100"), "1267650600228229401496703205376")
    assert.strictEqual(result("123456789 * 987654321"), "121932631112635269")
    assert.strictEqual(result("30! / 29!"), 30)
    assert.strictEqual(result("2^4095 mod 1,000"), 168)
    assert.strictEqual(String(result("-(3^2500)")).length, 1194)
  })

  it("formats long numbers for reading", () => {
    assert.deepStrictEqual(present(evaluate("2^10")), { result: 1024, formatted: "1024" })
    assert.strictEqual(present(evaluate("2^200")).formatted, "1.60693804425899e+60")
  })

  it.each([
    ["", "The expression ends too early."],
    ["2 +", "The expression ends too early."],
    ["2 3", 'Unexpected "3" in the expression.'],
    ["(1 + 2", "The expression ends too early."],
    ["1 + 2)", 'Unexpected ")" in the expression.'],
    ["1 / 0", "Division by zero."],
    ["5 % 0", "Division by zero."],
    ["0^-1", "Division by zero."],
    ["sqrt(-1)", "There is no real number that is the result."],
    ["1,23", "1,23 is not a number: write thousands as 1,234 and decimals as 1.5."],
    ["5 km + 3 kg", "Quantities of different kinds can't be added, subtracted or converted into each other."],
    ["5 to cm", "There is no unit to convert from."],
    ["sqrt(1, 2)", "sqrt does not take 2 arguments."],
    ["x = 3", '"=" is not understood in a calculation.'],
    ["1e400", "A number is too large."],
    ["$5", '"$" is not understood in a calculation.']
  ])("says what is wrong with %s", (expression, expected) =>
    assert.strictEqual(failure(expression), expected)
  )

  it.each([
    "import(1)",
    "evaluate(1)",
    "parse(1)",
    "createUnit(1)",
    "config(1)",
    "simplify(1)",
    "constructor",
    "constructor(1)",
    "toString",
    "valueOf()",
    "hasOwnProperty(1)",
    "this",
    "math",
    "globalThis",
    "process",
    "import",
    "f(x)",
    "end",
    "i",
    "random()",
    "range(1, 1e9)",
    "ones(1e4, 1e4)",
    "zeros(1e9)",
    "bignumber(2)",
    "fraction(1, 3)"
  ])("has nothing named %s", (expression) =>
    assert.match(failure(expression), /^There is nothing named|^The expression ends/u)
  )

  it.each([
    "__proto__",
    "a.constructor",
    "cos.constructor",
    '"a"',
    "'a'",
    '"a".repeat(9)',
    "[1, 2]",
    "{a: 1}",
    "1:9",
    "a; b",
    "f(x) = x",
    "1 == 1",
    "2 > 1",
    "1 ? 2 : 3",
    "`1`",
    "#1",
    "\\u0041",
    "\u0000",
    "5'"
  ])("has no syntax for %s", (expression) =>
    assert.match(failure(expression), /is not understood|Unexpected/u)
  )

  it("refuses what would take too long or too much", () => {
    const hostile = [
      "9^9^9^9",
      "2^2^2^2^2^2^2^2",
      "factorial(1e6)",
      "1e6!",
      `9${"!".repeat(900)}`,
      "permutations(1e9, 5e8)",
      "combinations(1e9, 5e8)",
      "combinations(4000, 2000)",
      // Time exponential in the depth, in mathjs's own parser.
      `${"1%(".repeat(300)}1${")".repeat(300)}`,
      `${"(1%".repeat(300)}1${")".repeat(300)}`,
      `${"(".repeat(500)}1${")".repeat(499)}`,
      `${"√".repeat(900)}1`,
      `${"2^".repeat(499)}1`,
      `${"m*".repeat(400)}m`,
      "°".repeat(900),
      `${"9".repeat(499)}^${"9".repeat(499)}`,
      `${"(9^1290*".repeat(60)}1${")".repeat(60)}`,
      `${"450!*".repeat(160)}1`,
      `1${",111".repeat(240)},11`
    ]
    for (const expression of hostile)
      assert.notMatch(failure(expression), /^no failure/u, expression.slice(0, 40))
  })

  // Pieces that mean something, so that the strings get past the first character.
  const pieces = [
    ..."0123456789.,+-*/^%!()√² ",
    ...[
      "12",
      "1e9",
      "pi",
      "e",
      " in ",
      " to ",
      " of ",
      " mod ",
      "km",
      "h",
      "kg",
      "deg",
      "sqrt(",
      "max(",
      "mod("
    ],
    ...[
      "gcd(",
      "combinations(",
      "constructor",
      "__proto__",
      "=",
      "[",
      "]",
      '"',
      ";",
      ":",
      "{",
      "（",
      "９",
      "𝟗"
    ]
  ]
  const expressions = Arbitrary.array(Arbitrary.schema(Schema.Literals(pieces)), { maxLength: 60 })

  it.prop(
    "answers any text with a number or a text of bounded size, or says why not",
    { text: Schema.String, parts: expressions },
    ({ parts, text }) => {
      for (const expression of [text, parts.join("")]) {
        try {
          const shown = present(evaluate(expression))
          assert.isTrue(typeof shown.result === "string" || Number.isFinite(shown.result), expression)
          assert.isAtMost(String(shown.result).length, 1400)
          assert.isAtMost(shown.formatted.length, 1400)
        } catch (error) {
          assert.instanceOf(error, CalculationFailed, expression)
          assert.isAtMost((error as Error).message.length, 200)
        }
      }
    },
    { arbitrary: { runs: 1500 } }
  )

  it.effect("answers in the shape the contract gives", () =>
    Effect.gen(function* () {
      const tools = yield* Tools
      const outcome = yield* tools.execute("calculator", { expression: "0.1 + 0.2" })
      assert.isTrue(outcome.success)
      assert.deepStrictEqual(outcome.data, { expression: "0.1 + 0.2", result: 0.3, formatted: "0.3" })
      const failed = yield* tools.execute("calculator", { expression: "1/0" })
      assert.strictEqual(failed.error, "Division by zero.")
      const tooLong = yield* Effect.flip(tools.execute("calculator", { expression: "1+".repeat(501) }))
      assert.match(tooLong.message, /^expression: /u)
    }).pipe(Effect.provide(Tools.layerOf([calculator])))
  )
})
