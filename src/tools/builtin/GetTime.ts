/**
 * Owns the tool `get_time`: the present time in any time zone.
 *
 * Does not look at the machine's own time zone: without a zone asked for, it is UTC.
 */
import { DateTime, Effect, Option, Schema } from "effect"
import { defineTool, ToolFailed, withDefault } from "../ToolDefinition.ts"

/**
 * Cities people name that no IANA zone is named after, and places whose zone was renamed while `Intl` still lists the
 * old name.
 */
const cityZones: Readonly<Record<string, string>> = {
  beijing: "Asia/Shanghai",
  boston: "America/New_York",
  delhi: "Asia/Kolkata",
  "new delhi": "Asia/Kolkata",
  mumbai: "Asia/Kolkata",
  kolkata: "Asia/Kolkata",
  geneva: "Europe/Zurich",
  "ho chi minh": "Asia/Ho_Chi_Minh",
  kathmandu: "Asia/Kathmandu",
  kyiv: "Europe/Kyiv",
  miami: "America/New_York",
  milan: "Europe/Rome",
  munich: "Europe/Berlin",
  osaka: "Asia/Tokyo",
  "san francisco": "America/Los_Angeles",
  seattle: "America/Los_Angeles",
  shenzhen: "Asia/Shanghai",
  washington: "America/New_York",
  yangon: "Asia/Yangon"
}

/** `tokyo` → `["Asia/Tokyo"]`, by the last part of each zone's name. */
const zonesByCity: ReadonlyMap<string, ReadonlyArray<string>> = Map.groupBy(
  Intl.supportedValuesOf("timeZone").filter((id) => id.includes("/")),
  (id) =>
    id
      .slice(id.lastIndexOf("/") + 1)
      .replaceAll("_", " ")
      .toLowerCase()
)

interface NamedZone {
  readonly name: string
  readonly zone: DateTime.TimeZone
}

/** Keeps the name asked for: `Intl` would turn `Asia/Kolkata` into the older `Asia/Calcutta`, and `EST` into Panama. */
const zoneNamed = (name: string): Option.Option<NamedZone> =>
  // Lower case, so that the zones Effect keeps by name stay as few as there are zones.
  DateTime.zoneFromString(name.toLowerCase()).pipe(
    Option.filter((zone) => !DateTime.isTimeZoneOffset(zone) || Math.abs(zone.offset) <= maxOffsetMillis),
    Option.map((zone) => {
      const canonical = DateTime.zoneToString(zone)
      return { name: canonical.toLowerCase() === name.toLowerCase() ? canonical : name, zone }
    })
  )

/** No place on Earth is further ahead than UTC+14. */
const maxOffsetMillis = 14 * 3_600_000

/** An IANA name in any case, a fixed offset (`+02:00`), or a city that only one zone is named after. */
const findZone = (text: string): Option.Option<NamedZone> => {
  const name = text.trim()
  if (name === "" || name.toLowerCase() === "z") return zoneNamed("UTC")
  return Option.orElse(zoneNamed(name.replaceAll(" ", "_")), () => {
    const city = (name.split(",")[0] ?? "").replaceAll("_", " ").trim().toLowerCase()
    const found = Object.hasOwn(cityZones, city) ? [cityZones[city]] : zonesByCity.get(city)
    const [zone] = found?.length === 1 ? found : []
    return zone === undefined ? Option.none() : zoneNamed(zone)
  })
}

/** ICU puts a narrow no-break space before AM and PM, which speech and terminals handle badly. */
const spoken = (text: string) => text.replaceAll("\u202f", " ")

const formats = {
  full: (now: DateTime.Zoned) =>
    spoken(DateTime.format(now, { locale: "en-US", dateStyle: "full", timeStyle: "long" })),
  date: (now: DateTime.Zoned) => DateTime.formatIsoDate(now),
  time: (now: DateTime.Zoned) =>
    spoken(DateTime.format(now, { locale: "en-GB", timeStyle: "medium", hourCycle: "h23" })),
  timestamp: (now: DateTime.Zoned) => String(Math.floor(DateTime.toEpochSeconds(now)))
}

export const getTime = defineTool({
  name: "get_time",
  description:
    "Tells the present date and time, in UTC or in a time zone. Use it whenever the answer depends on what day or time it is.",
  parameters: Schema.Struct({
    format: withDefault(
      Schema.Literals(["full", "date", "time", "timestamp"]).annotate({
        description:
          "full: weekday, date and time; date: YYYY-MM-DD; time: HH:MM:SS; timestamp: seconds since 1970"
      }),
      "full"
    ),
    timezone: withDefault(
      Schema.String.check(Schema.isMaxLength(100)).annotate({
        description: "IANA time zone such as Asia/Tokyo, or a large city such as Tokyo"
      }),
      "UTC"
    )
  }),
  success: Schema.Struct({
    format: Schema.String,
    timezone: Schema.String,
    /** `+09:00` */
    utc_offset: Schema.String,
    /** As `format` asks. */
    formatted: Schema.String,
    /** ISO 8601 with the zone's offset. */
    iso: Schema.String,
    /** Seconds since 1970-01-01T00:00Z. */
    timestamp: Schema.Int
  }),
  handler: Effect.fnUntraced(function* ({ format, timezone }) {
    const found = findZone(timezone)
    if (Option.isNone(found)) {
      return yield* new ToolFailed({
        message: `There is no time zone named ${JSON.stringify(timezone)}. Use an IANA name such as "Asia/Tokyo" or "America/New_York".`,
        reason: "not_found"
      })
    }
    const { name, zone } = found.value
    const now = DateTime.setZone(yield* DateTime.now, zone)
    return {
      format,
      timezone: name,
      utc_offset: DateTime.zonedOffsetIso(now),
      formatted: formats[format](now),
      iso: DateTime.formatIsoOffset(now),
      timestamp: Math.floor(DateTime.toEpochSeconds(now))
    }
  }),
  isIdempotent: true
})
