import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import { getTime } from "../../../src/tools/builtin/GetTime.ts"
import { Tools } from "../../../src/tools/Tools.ts"

/** 2026-11-22T15:40:20Z, a Sunday. */
const instant = Date.UTC(2026, 10, 22, 15, 40, 20)

const timeIn = (args: Record<string, unknown>) =>
  Effect.gen(function* () {
    yield* TestClock.setTime(instant)
    const tools = yield* Tools
    return yield* tools.execute("get_time", args)
  }).pipe(Effect.provide(Tools.layerOf([getTime])))

describe("get_time", () => {
  it.effect("tells the time in UTC when nothing is asked for", () =>
    Effect.gen(function* () {
      const { data } = yield* timeIn({})
      assert.deepStrictEqual(data, {
        format: "full",
        timezone: "UTC",
        utc_offset: "+00:00",
        formatted: "Sunday, November 22, 2026 at 3:40:20 PM UTC",
        iso: "2026-11-22T15:40:20.000+00:00",
        timestamp: 1_795_362_020
      })
    })
  )

  it.effect.each([
    ["full", "Monday, November 23, 2026 at 12:40:20 AM GMT+9"],
    ["date", "2026-11-23"],
    ["time", "00:40:20"],
    ["timestamp", "1795362020"]
  ])("formats as %s", ([format, expected]) =>
    Effect.gen(function* () {
      const { data } = yield* timeIn({ format, timezone: "Asia/Tokyo" })
      assert.deepInclude(data, { formatted: expected, timezone: "Asia/Tokyo", utc_offset: "+09:00" })
    })
  )

  it.effect.each([
    ["asia/tokyo", "Asia/Tokyo", "+09:00"],
    ["Tokyo", "Asia/Tokyo", "+09:00"],
    ["new york", "America/New_York", "-05:00"],
    ["Paris, France", "Europe/Paris", "+01:00"],
    ["Beijing", "Asia/Shanghai", "+08:00"],
    // Zones that `Intl` lists under an older name.
    ["Asia/Kolkata", "Asia/Kolkata", "+05:30"],
    ["Kyiv", "Europe/Kyiv", "+02:00"],
    ["+05:30", "+05:30", "+05:30"],
    ["Z", "UTC", "+00:00"],
    [" ", "UTC", "+00:00"]
  ])("finds the zone of %s", ([timezone, name, offset]) =>
    Effect.gen(function* () {
      const { data } = yield* timeIn({ timezone })
      assert.deepInclude(data, { timezone: name, utc_offset: offset })
    })
  )

  it.effect.each(["Atlantis", "Mars/Olympus", "__proto__", "constructor", "+99:00", "../etc"])(
    "names the zone it does not know: %s",
    (timezone) =>
      Effect.gen(function* () {
        const outcome = yield* timeIn({ timezone })
        assert.isFalse(outcome.success)
        assert.strictEqual(
          outcome.error,
          `There is no time zone named "${timezone}". Use an IANA name such as "Asia/Tokyo" or "America/New_York".`
        )
      })
  )

  it.effect("refuses a format it does not have", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(timeIn({ format: "roman" }))
      assert.strictEqual(error.message, 'format: Expected "full" | "date" | "time" | "timestamp"')
    })
  )
})
