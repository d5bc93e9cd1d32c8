import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { ChatEvent } from "../../src/api/ChatEvent.ts"
import { v1Events } from "../../src/http/V1Events.ts"
import { TurnLog } from "../../src/turns/TurnLog.ts"
import { endedTurn } from "../support/endedTurn.ts"

const decode = Schema.decodeUnknownSync(Schema.fromJsonString(ChatEvent))

const read = (log: TurnLog, after = 0) => {
  const told: Array<{ readonly sequence: number; readonly event: typeof ChatEvent.Type }> = []
  let ended = false
  const stop = v1Events(log).subscribe(
    {
      onEvent: (sequence, json) => void told.push({ sequence, event: decode(json) }),
      onEnd: () => {
        ended = true
      }
    },
    after
  )
  return { told, stop, ended: () => ended }
}

const textOf = (told: ReturnType<typeof read>["told"]) =>
  told.map(({ event }) => (event.type === "delta" ? event.content : "")).join("")

const deltas = ["Let", " me", " see", ".", " Four", ", ", "名", "字"]

/** A turn's events: deltas with a tool call among them. */
const fill = (log: TurnLog) => {
  log.append({ type: "accepted", model: "m" })
  for (const content of deltas.slice(0, 4)) log.append({ type: "text", text: content })
  log.append({
    type: "tool_started",
    step: 0,
    position: 0,
    call: { id: "c", name: "calculator", arguments: "{}" }
  })
  for (const content of deltas.slice(4)) log.append({ type: "text", text: content })
}

const make = () => new TurnLog("0190d5a1-0000-7000-8000-0123456789ab", 'a "session"', () => 1_700_000_000_000)

describe("V1Events", () => {
  it("numbers events from 1 and puts each in the envelope of the contract", () => {
    const log = make()
    const { told, ended } = read(log)
    fill(log)
    log.end(endedTurn)
    assert.deepStrictEqual(
      told.map(({ sequence }) => sequence),
      Array.from({ length: 12 }, (_, i) => i + 1)
    )
    assert.isTrue(ended())
    for (const { event } of told) assert.strictEqual(event.session_id, 'a "session"')
    const first = told[0]?.event
    assert.isTrue(first !== undefined && "id" in first && /^evt_[0-9a-f]{16}$/.test(first.id))
    assert.strictEqual(new Set(told.map(({ event }) => ("id" in event ? event.id : event.type))).size, 12)
  })

  it("tells the same text and the same other events from any point, before and after the end", () => {
    for (const endFirst of [true, false]) {
      const log = make()
      const live = read(log)
      fill(log)
      if (endFirst) log.end(endedTurn)
      for (let after = 0; after <= live.told.length; after++) {
        const late = read(log, after)
        const missed = live.told.slice(after)
        assert.strictEqual(textOf(late.told), textOf(missed))
        assert.deepStrictEqual(
          late.told.filter(({ event }) => event.type !== "delta").map(({ sequence }) => sequence),
          missed.filter(({ event }) => event.type !== "delta").map(({ sequence }) => sequence)
        )
        assert.strictEqual(late.told.at(-1)?.sequence, missed.at(-1)?.sequence)
        assert.strictEqual(late.ended(), endFirst)
        late.stop()
      }
    }
  })

  it("a reader that joins late gets what comes next, once", () => {
    const log = make()
    fill(log)
    const late = read(log, 4)
    log.append({ type: "text", text: "!" })
    log.end(endedTurn)
    log.append({ type: "text", text: "never" })
    assert.strictEqual(textOf(late.told), " see. Four, 名字!")
    assert.strictEqual(late.told.filter(({ event }) => event.type === "cancelled").length, 1)
  })

  it("tells nothing more to a reader that has left", () => {
    const log = make()
    const reader = read(log)
    reader.stop()
    fill(log)
    log.end(endedTurn)
    assert.deepStrictEqual(reader.told, [])
    assert.isFalse(reader.ended())
  })
})
