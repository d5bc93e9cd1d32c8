/** Spans carry no source location: capturing it is expensive, and nobody reads it. */
export const noStack = { captureStackTrace: false } as const
