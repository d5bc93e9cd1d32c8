/** The first `length` UTF-16 units of a text, cut between characters: half a surrogate pair is no text. */
export const cut = (text: string, length: number): string =>
  text.length <= length ? text : text.slice(0, length).replace(/[\ud800-\udbff]$/, "")
