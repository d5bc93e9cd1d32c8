/**
 * Owns how a request that does not fit its schema is put into words: which field, and why. Values are never repeated.
 */
import { type Schema, SchemaAST, SchemaIssue } from "effect"
import type { FieldIssue } from "../api/Problems.ts"

const format = SchemaIssue.makeFormatterStandardSchemaV1({
  leafHook: (issue) => {
    if (issue._tag === "MissingKey") return "is required"
    // Otherwise the schema's own name would be told.
    if (issue._tag === "InvalidType" && SchemaAST.isObjects(issue.ast)) return "expected an object"
    return SchemaIssue.defaultLeafHook(issue)
  }
})

const fieldOf = (path: ReadonlyArray<PropertyKey | { readonly key: PropertyKey }> | undefined): string =>
  (path ?? []).map((segment) => String(typeof segment === "object" ? segment.key : segment)).join(".")

/** One issue a field: the first. `root` names the value as a whole. */
export const fieldIssuesOf = (error: Schema.SchemaError, root: string): ReadonlyArray<FieldIssue> => {
  const messages = new Map<string, string>()
  for (const issue of format(error.issue).issues) {
    const field = fieldOf(issue.path).slice(0, 200) || root
    if (!messages.has(field)) messages.set(field, lowerFirst(issue.message).slice(0, 300))
    if (messages.size === 20) break
  }
  return Array.from(messages, ([field, message]) => ({ field, message }))
}

const lowerFirst = (text: string) => text.charAt(0).toLowerCase() + text.slice(1)

/** The sentence clients show. */
export const sentenceOf = (issues: ReadonlyArray<FieldIssue>): string =>
  issues.map(({ field, message }) => `${field}: ${message}`).join("; ")
