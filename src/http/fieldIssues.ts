/**
 * Owns how a request that does not fit its schema is put into words: which field, and why. Values are never repeated.
 */
import { type Schema, SchemaAST, SchemaIssue } from "effect"
import type { FieldIssue } from "../api/Problems.ts"

const format = SchemaIssue.makeFormatterStandardSchemaV1({
  leafHook: (issue) => {
    if (issue._tag === "InvalidType" && SchemaAST.isArrays(issue.ast)) return "expected an array"
    if (issue._tag === "InvalidType" && SchemaAST.isObjects(issue.ast)) return "expected an object"
    return SchemaIssue.defaultLeafHook(issue)
  }
})

/** Bodies are decoded as a union of all that an endpoint takes, even if that is one thing; only its name would be told. */
const unwrapped = (issue: SchemaIssue.Issue): SchemaIssue.Issue => {
  if (issue._tag !== "AnyOf" || issue.issues.length > 0 || !SchemaAST.isUnion(issue.ast)) return issue
  const [only, ...others] = issue.ast.types
  return only === undefined || others.length > 0 ? issue : new SchemaIssue.InvalidType(only)
}

const fieldOf = (path: ReadonlyArray<PropertyKey | { readonly key: PropertyKey }> | undefined): string =>
  (path ?? []).map((segment) => String(typeof segment === "object" ? segment.key : segment)).join(".")

/** One issue a field: the first. `root` names the value as a whole. */
export const fieldIssuesOf = (error: Schema.SchemaError, root: string): ReadonlyArray<FieldIssue> => {
  const messages = new Map<string, string>()
  for (const issue of format(unwrapped(error.issue)).issues) {
    const field = fieldOf(issue.path).slice(0, 200) || root
    if (!messages.has(field)) messages.set(field, worded(issue.message))
    if (messages.size === 20) break
  }
  return Array.from(messages, ([field, message]) => ({ field, message }))
}

/** The framework's message as a part of a sentence. */
export const worded = (message: string): string =>
  message === "Missing key" ? "is required" : message.charAt(0).toLowerCase() + message.slice(1, 300)

/** The sentence clients show. */
export const sentenceOf = (issues: ReadonlyArray<FieldIssue>): string =>
  issues.map(({ field, message }) => `${field}: ${message}`).join("; ")
