/**
 * Owns that every turn this process accepted is ended in the database too, even if that is away when it ends: until
 * then its session would wait for it.
 *
 * Does not decide how a turn ended.
 */
import { Clock, Duration, Effect, Schedule } from "effect"
import type { DbUnavailable } from "../db/DbUnavailable.ts"
import type { EndedTurn, TurnsRepo } from "./TurnsRepo.ts"

export interface TurnEnds {
  /**
   * Stores an end, waiting out a database that is away for a while. False: it was not stored. The turn is then ended
   * as failed as soon as the database is back.
   */
  readonly keep: (turn: EndedTurn) => Effect.Effect<boolean>
  /** For a turn that may have been stored, though its caller was told that it was not: it is ended as failed. */
  readonly disown: (turnId: string) => Effect.Effect<void>
  /** Stores what could not be stored before. */
  readonly keepLate: Effect.Effect<void>
}

/** How often, and how many times, an end is tried again while its client waits. */
const patience = Schedule.max([Schedule.spaced("500 millis"), Schedule.recurs(20)])

/** A statement whose answer was lost may take effect until then. */
const lostFor = Duration.seconds(30)

/** What is left when the rest can't be stored. */
const bare = (turn: EndedTurn): EndedTurn => ({
  ...turn,
  model: "",
  metadata: { status: turn.status },
  calls: [],
  usage: []
})

const asFailed = (turn: EndedTurn): EndedTurn => ({
  ...turn,
  status: "failed",
  errorCode: "SERVICE_UNAVAILABLE",
  metadata: { ...turn.metadata, status: "failed" }
})

interface LateEnd {
  readonly turn: EndedTurn
  /** When to stop looking for a turn that is not there, in milliseconds since the epoch. */
  readonly until: number
}

/** `isHurried`: whether there is no time to wait for the database any more. */
export const makeTurnEnds = (
  repo: Pick<TurnsRepo["Service"], "end">,
  owner: string,
  isHurried: () => boolean
): TurnEnds => {
  const late = new Map<string, LateEnd>()

  const add = (turn: EndedTurn) =>
    Effect.map(
      Clock.currentTimeMillis,
      (now) => void late.set(turn.turnId, { turn: asFailed(turn), until: now + Duration.toMillis(lostFor) })
    )

  /** A defect is a bug of ours, or a reply that the database does not take: the session must go on all the same. */
  const store = (turn: EndedTurn): Effect.Effect<boolean, DbUnavailable> =>
    Effect.catchDefect(
      Effect.suspend(() => repo.end(turn)),
      (defect) =>
        Effect.andThen(
          Effect.logError("The end of a turn could not be stored as it is", defect),
          repo.end(bare(turn))
        )
    )

  const keep = (turn: EndedTurn) =>
    store(turn).pipe(
      Effect.retry({ schedule: patience, while: () => !isHurried() }),
      Effect.catchCause((cause) =>
        Effect.as(Effect.andThen(Effect.logError("A reply could not be stored", cause), add(turn)), false)
      )
    )

  const disown = (turnId: string) =>
    add({
      turnId,
      owner,
      status: "failed",
      model: "",
      errorCode: null,
      traceId: "",
      reply: undefined,
      metadata: {},
      calls: [],
      usage: []
    })

  const keepOne = ({ turn, until }: LateEnd) =>
    store(turn).pipe(
      Effect.catchDefect((defect) =>
        Effect.as(Effect.logError("The end of a turn could not be stored at all", defect), false)
      ),
      Effect.flatMap((ended) =>
        Effect.map(Clock.currentTimeMillis, (now) => {
          if (ended || now > until) late.delete(turn.turnId)
        })
      )
    )

  return {
    keep,
    disown,
    // Found away, the database is asked again the next time.
    keepLate: Effect.suspend(() =>
      Effect.ignore(Effect.forEach([...late.values()], keepOne, { discard: true }))
    )
  }
}
