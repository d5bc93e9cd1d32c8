import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Logger } from "effect"
import { FetchHttpClient } from "effect/http"
import { makeGetWeather } from "../../../src/tools/builtin/GetWeather.ts"
import { ToolHttp } from "../../../src/tools/ToolHttp.ts"
import { Tools } from "../../../src/tools/Tools.ts"
import { type HttpRecorder, json, makeHttpRecorder } from "../../support/HttpRecorder.ts"

// As https://open-meteo.com/en/docs/geocoding-api gives it, shortened.
const paris = {
  id: 2988507,
  name: "Paris",
  latitude: 48.85341,
  longitude: 2.3488,
  elevation: 42.0,
  feature_code: "PPLC",
  country_code: "FR",
  timezone: "Europe/Paris",
  country: "France",
  admin1: "Île-de-France"
}
const parisTexas = {
  ...paris,
  name: "Paris",
  latitude: 33.66094,
  longitude: -95.55551,
  country_code: "US",
  country: "United States",
  admin1: "Texas"
}

// As https://open-meteo.com/en/docs gives it.
const forecast = (current: Record<string, unknown> = {}) => ({
  latitude: 48.86,
  longitude: 2.35,
  generationtime_ms: 0.05,
  utc_offset_seconds: 3600,
  timezone: "Europe/Paris",
  timezone_abbreviation: "GMT+1",
  elevation: 43.0,
  current_units: {
    time: "iso8601",
    interval: "seconds",
    temperature_2m: "°C",
    apparent_temperature: "°C",
    relative_humidity_2m: "%",
    wind_speed_10m: "km/h",
    weather_code: "wmo code"
  },
  current: {
    time: "2026-11-22T16:45",
    interval: 900,
    temperature_2m: 8.4,
    apparent_temperature: 5.9,
    relative_humidity_2m: 81,
    wind_speed_10m: 11.2,
    weather_code: 61,
    ...current
  }
})

const weather = (upstream: HttpRecorder, args: Record<string, unknown>) =>
  Effect.flatMap(Tools, (tools) => tools.execute("get_weather", args)).pipe(
    Effect.provide(
      Tools.layerOf([
        makeGetWeather({ geocoding: `${upstream.url}/v1/search`, forecast: `${upstream.url}/v1/forecast` })
      ]).pipe(
        Layer.provide(ToolHttp.layer),
        Layer.provide(FetchHttpClient.layer),
        Layer.provide(Logger.layer([]))
      )
    )
  )

describe("get_weather", () => {
  it.effect("finds the place, asks for its weather, and answers in the contract's shape", () =>
    Effect.gen(function* () {
      const upstream = yield* makeHttpRecorder
      upstream.script(json({ results: [paris] }), json(forecast()))
      const { data, error } = yield* weather(upstream, { location: " Paris " })
      assert.isNull(error)
      assert.deepStrictEqual(data, {
        location: "Paris",
        country: "France",
        latitude: 48.85341,
        longitude: 2.3488,
        temperature: 8.4,
        feels_like: 5.9,
        humidity: 81,
        wind_speed: 11.2,
        conditions: "light rain",
        units: { temperature: "°C", wind_speed: "km/h" },
        observed_at: "2026-11-22T16:45+01:00"
      })
      assert.deepStrictEqual(
        upstream.requests.map(({ method, path, query }) => ({ method, path, query })),
        [
          {
            method: "GET",
            path: "/v1/search",
            query: { name: "Paris", count: "1", language: "en", format: "json" }
          },
          {
            method: "GET",
            path: "/v1/forecast",
            query: {
              latitude: "48.85341",
              longitude: "2.3488",
              current: "temperature_2m,apparent_temperature,relative_humidity_2m,wind_speed_10m,weather_code",
              temperature_unit: "celsius",
              wind_speed_unit: "kmh",
              timezone: "auto"
            }
          }
        ]
      )
    })
  )

  it.effect.each([
    ["Paris, Texas", "United States"],
    ["Paris, usa", "United States"],
    ["Paris, FR", "France"],
    ["Paris, Nowhere", "France"]
  ])("tells places of one name apart: %s", ([location, country]) =>
    Effect.gen(function* () {
      const upstream = yield* makeHttpRecorder
      upstream.script(json({ results: [paris, parisTexas] }), json(forecast()))
      assert.deepInclude((yield* weather(upstream, { location })).data, { country })
      assert.deepInclude(upstream.requests[0]?.query, { name: "Paris", count: "10" })
    })
  )

  it.effect("asks in Fahrenheit and miles, and writes offsets and unknown codes out", () =>
    Effect.gen(function* () {
      const upstream = yield* makeHttpRecorder
      const answer = forecast({ weather_code: 42 })
      upstream.script(
        json({ results: [{ name: "Nowhere", latitude: 1, longitude: 2 }] }),
        json({
          ...answer,
          utc_offset_seconds: -12_600,
          current_units: { ...answer.current_units, temperature_2m: "°F", wind_speed_10m: "mp/h" }
        })
      )
      const { data } = yield* weather(upstream, { location: "Nowhere", units: "fahrenheit" })
      assert.deepInclude(data, {
        country: null,
        conditions: "unknown (WMO code 42)",
        observed_at: "2026-11-22T16:45-03:30"
      })
      assert.deepInclude(upstream.requests[1]?.query, {
        temperature_unit: "fahrenheit",
        wind_speed_unit: "mph"
      })
      assert.deepNestedInclude(data, { units: { temperature: "°F", wind_speed: "mph" } })
    })
  )

  it.effect("says when there is no such place", () =>
    Effect.gen(function* () {
      const upstream = yield* makeHttpRecorder
      upstream.script(json({ generationtime_ms: 0.4 }))
      const outcome = yield* weather(upstream, { location: "Atlantis" })
      assert.deepInclude(outcome, { success: false, error: 'No place named "Atlantis" was found.' })
      assert.lengthOf(upstream.requests, 1)
    })
  )

  it.effect("refuses a place without a name, and units it does not have", () =>
    Effect.gen(function* () {
      const upstream = yield* makeHttpRecorder
      const error = yield* Effect.flip(weather(upstream, { location: "  ", units: "kelvin" }))
      assert.strictEqual(
        error.message,
        'location: Expected some text; units: Expected "celsius" | "fahrenheit"'
      )
      assert.lengthOf(upstream.requests, 0)
    })
  )

  it.live("asks again after a passing failure", () =>
    Effect.gen(function* () {
      const upstream = yield* makeHttpRecorder
      upstream.script(json({}, 503), json({ results: [paris] }), json(forecast()))
      const outcome = yield* weather(upstream, { location: "Paris" })
      assert.isTrue(outcome.success)
      assert.lengthOf(upstream.requests, 3)
    }).pipe(Effect.scoped)
  )
})
