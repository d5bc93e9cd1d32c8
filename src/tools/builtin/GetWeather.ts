/**
 * Owns the tool `get_weather`: the present weather at a place, from Open-Meteo, which needs no key.
 *
 * Formats: https://open-meteo.com/en/docs and https://open-meteo.com/en/docs/geocoding-api.
 */
import { Effect, Schema } from "effect"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import { defineTool, ToolFailed, withDefault } from "../ToolDefinition.ts"
import { ToolHttp } from "../ToolHttp.ts"

const geocodingUrl = "https://geocoding-api.open-meteo.com/v1/search"
const forecastUrl = "https://api.open-meteo.com/v1/forecast"

const optionalText = Schema.optionalKey(Schema.NullOr(Schema.String))

const Place = Schema.Struct({
  name: Schema.String,
  latitude: Schema.Finite,
  longitude: Schema.Finite,
  country: optionalText,
  country_code: optionalText,
  /** State, province or region. */
  admin1: optionalText
})

/** Without `results` when no place has that name. */
const Places = Schema.Struct({ results: Schema.optionalKey(Schema.Array(Place)) })

const Forecast = Schema.Struct({
  utc_offset_seconds: Schema.Int,
  current_units: Schema.Struct({ temperature_2m: Schema.String, wind_speed_10m: Schema.String }),
  current: Schema.Struct({
    /** Local time at the place, to the minute and without an offset: `2026-11-22T15:30`. */
    time: Schema.String,
    temperature_2m: Schema.Finite,
    apparent_temperature: Schema.Finite,
    relative_humidity_2m: Schema.Finite,
    wind_speed_10m: Schema.Finite,
    weather_code: Schema.Int
  })
})

/** WMO code table 4677, the codes Open-Meteo uses. */
const conditions: Readonly<Record<number, string>> = {
  0: "clear sky",
  1: "mainly clear",
  2: "partly cloudy",
  3: "overcast",
  45: "fog",
  48: "freezing fog",
  51: "light drizzle",
  53: "drizzle",
  55: "heavy drizzle",
  56: "light freezing drizzle",
  57: "freezing drizzle",
  61: "light rain",
  63: "rain",
  65: "heavy rain",
  66: "light freezing rain",
  67: "freezing rain",
  71: "light snow",
  73: "snow",
  75: "heavy snow",
  77: "snow grains",
  80: "light rain showers",
  81: "rain showers",
  82: "violent rain showers",
  85: "light snow showers",
  86: "heavy snow showers",
  95: "thunderstorm",
  96: "thunderstorm with light hail",
  99: "thunderstorm with heavy hail"
}

const countryCodes: Readonly<Record<string, string>> = { uk: "gb", usa: "us", uae: "ae" }

/** `+05:30` of 19800. */
const offsetOf = (seconds: number): string => {
  const minutes = Math.abs(Math.round(seconds / 60))
  const two = (value: number) => String(value).padStart(2, "0")
  return `${seconds < 0 ? "-" : "+"}${two(Math.floor(minutes / 60))}:${two(minutes % 60)}`
}

/**
 * Open-Meteo looks up bare names only. Of the places that bear the name, the one in the country or region after the
 * comma is meant; when none is, the best known, whose country the answer names.
 */
const chosen = (places: ReadonlyArray<typeof Place.Type>, qualifiers: ReadonlyArray<string>) => {
  const wanted = qualifiers.map((text) => countryCodes[text.toLowerCase()] ?? text.toLowerCase())
  return (
    places.find((place) =>
      [place.country, place.country_code, place.admin1].some(
        (name) => name !== undefined && name !== null && wanted.includes(name.toLowerCase())
      )
    ) ?? places[0]
  )
}

const units = { celsius: "kmh", fahrenheit: "mph" } as const

/** Base URLs, for tests and for a server of Open-Meteo's of one's own. */
export interface OpenMeteoUrls {
  readonly geocoding: string
  readonly forecast: string
}

export const makeGetWeather = (urls: OpenMeteoUrls = { geocoding: geocodingUrl, forecast: forecastUrl }) =>
  defineTool({
    name: "get_weather",
    description: "Tells the present weather at a place: temperature, humidity, wind and conditions.",
    parameters: Schema.Struct({
      location: Schema.String.check(
        Schema.isPattern(/\S/u, { message: "Expected some text" }),
        Schema.isMaxLength(200)
      ).annotate({
        description: "A city or other place, with its country if that is in doubt: Paris, or Paris, Texas"
      }),
      units: withDefault(
        Schema.Literals(["celsius", "fahrenheit"]).annotate({
          description: "celsius (with km/h) or fahrenheit (with mph)"
        }),
        "celsius"
      )
    }),
    success: Schema.Struct({
      location: Schema.String,
      country: Schema.NullOr(Schema.String),
      /** Degrees, north and east positive. */
      latitude: Schema.Finite,
      longitude: Schema.Finite,
      temperature: Schema.Finite,
      feels_like: Schema.Finite,
      /** Percent. */
      humidity: Schema.Finite,
      wind_speed: Schema.Finite,
      conditions: Schema.String,
      /** Of the values above: `{ temperature: "°C", wind_speed: "km/h" }`. */
      units: Schema.Struct({ temperature: Schema.String, wind_speed: Schema.String }),
      /** ISO 8601 with the place's offset. */
      observed_at: Schema.String
    }),
    handler: Effect.fnUntraced(function* (args) {
      const http = yield* ToolHttp
      const [name = "", ...qualifiers] = args.location.split(/[,，]/u).map((part) => part.trim())
      const { results = [] } = yield* http.json(
        HttpClientRequest.get(urls.geocoding, {
          urlParams: { name, count: qualifiers.length === 0 ? 1 : 10, language: "en", format: "json" }
        }),
        Places
      )
      const place = chosen(results, qualifiers)
      if (place === undefined) {
        return yield* new ToolFailed({
          message: `No place named ${JSON.stringify(args.location)} was found.`,
          reason: "not_found"
        })
      }
      const { current, current_units, utc_offset_seconds } = yield* http.json(
        HttpClientRequest.get(urls.forecast, {
          urlParams: {
            latitude: place.latitude,
            longitude: place.longitude,
            current: "temperature_2m,apparent_temperature,relative_humidity_2m,wind_speed_10m,weather_code",
            temperature_unit: args.units,
            wind_speed_unit: units[args.units],
            timezone: "auto"
          }
        }),
        Forecast
      )
      return {
        location: place.name,
        country: place.country ?? null,
        latitude: place.latitude,
        longitude: place.longitude,
        temperature: current.temperature_2m,
        feels_like: current.apparent_temperature,
        humidity: current.relative_humidity_2m,
        wind_speed: current.wind_speed_10m,
        conditions: conditions[current.weather_code] ?? `unknown (WMO code ${current.weather_code})`,
        units: {
          temperature: current_units.temperature_2m,
          // Open-Meteo writes `mp/h`.
          wind_speed: current_units.wind_speed_10m === "mp/h" ? "mph" : current_units.wind_speed_10m
        },
        observed_at: `${current.time}${offsetOf(utc_offset_seconds)}`
      }
    }),
    isIdempotent: true
  })
