/**
 * Owns how a request that does not fit its schema is put into words: which field, and why. Values are never repeated.
 */
import { type Schema, SchemaIssue } from "effect"
import type { FieldIssue } from "../api/Problems.ts"

const format = SchemaIssue.makeFormatterStandardSchemaV1()

const fieldOf = (path: ReadonlyArray<PropertyKey | { readonly key: PropertyKey }> | undefined): string =>
  (path ?? []).map((segment) => String(typeof segment === "object" ? segment.key : segment)).join(".")

/** `root` names the value as a whole. */
export const fieldIssuesOf = (error: Schema.SchemaError, root: string): ReadonlyArray<FieldIssue> =>
  format(error.issue)
    .issues.slice(0, 20)
    .map((issue) => ({
      field: fieldOf(issue.path).slice(0, 200) || root,
      message: issue.message === "Missing key" ? "is required" : lowerFirst(issue.message).slice(0, 300)
    }))

const lowerFirst = (text: string) => text.charAt(0).toLowerCase() + text.slice(1)

/** The sentence clients show. */
export const sentenceOf = (issues: ReadonlyArray<FieldIssue>): string =>
  issues.map(({ field, message }) => `${field}: ${message}`).join("; ")
