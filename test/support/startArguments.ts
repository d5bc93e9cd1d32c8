/**
 * Owns what `npm start` gives to node, so that what is measured and put to the test is what people run.
 */
import { readFileSync } from "node:fs"

export const startArguments = (): ReadonlyArray<string> => {
  const manifest: { readonly scripts: { readonly start: string } } = JSON.parse(
    readFileSync(new URL("../../package.json", import.meta.url), "utf8")
  )
  const [program, ...args] = manifest.scripts.start.split(" ").filter((word) => word !== "")
  if (program !== "node") throw new Error("package.json: the start script is expected to be `node …`")
  return args
}
