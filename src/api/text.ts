/**
 * Owns which text the server takes: what every store and protocol behind it can hold. No server code, so that clients
 * can import it.
 */
import { Schema } from "effect"

/** Postgres holds no U+0000, and half a surrogate pair has no form in UTF-8. */
export const isStorable = (text: string): boolean => text.isWellFormed() && !text.includes("\u0000")

export const storableExpected = "must be valid Unicode, without the character U+0000"

/** A check for schemas of text. */
export const storable = Schema.makeFilter<string>((text) => isStorable(text) || storableExpected)
