/**
 * Owns what the processes of the fault run tell each other.
 */

/** The ways in which a call fails, all of them before its first token. */
export const faults = [
  "429",
  "500",
  "503",
  "cut",
  "refused",
  "cut before text",
  "hang",
  "hang before text",
  "malformed"
] as const
export type Fault = (typeof faults)[number]

export interface ModelReport {
  readonly calls: number
  readonly faults: Readonly<Record<Fault, number>>
}
