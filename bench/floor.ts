/**
 * Owns the floor: what `node:http` alone costs. It asks the model, parses its stream and sends our delta events on.
 *
 * Leaves out all else on purpose: no validation, prompt, tools, history, database, retries, time limits or trace.
 */
import { Agent, createServer, request } from "node:http"
import { endWithParent, tell } from "./messages.ts"

const modelPort = Number(process.argv[2])
const agent = new Agent({ keepAlive: true, maxFreeSockets: 4096, scheduling: "lifo" })
const question = Buffer.from(
  JSON.stringify({ model: "bench", stream: true, messages: [{ role: "user", content: "Count to fifty." }] })
)
const asking = {
  host: "127.0.0.1",
  port: modelPort,
  path: "/v1/chat/completions",
  method: "POST",
  agent,
  headers: { "content-type": "application/json", "content-length": question.length }
}

const eventHead = (type: string) =>
  `data: {"version":"1.0","id":"evt_0000000000000000","timestamp":"${new Date().toISOString()}","type":"${type}","session_id":"floor"`

const server = createServer((incoming, response) => {
  incoming.resume()
  incoming.on("end", () => {
    const upstream = request(asking, (answer) => {
      response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" })
      answer.setEncoding("utf8")
      let rest = ""
      let reply = ""
      answer.on("data", (piece: string) => {
        const text = rest + piece
        let out = ""
        let at = 0
        for (;;) {
          const end = text.indexOf("\n\n", at)
          if (end === -1) break
          const data = text.slice(at + 6, end)
          at = end + 2
          if (data === "[DONE]") continue
          const content: unknown = JSON.parse(data).choices[0]?.delta.content
          if (typeof content === "string" && content !== "") {
            reply += content
            out += `${eventHead("delta")},"content":${JSON.stringify(content)}}\n\n`
          }
        }
        rest = text.slice(at)
        if (out !== "") response.write(out)
      })
      answer.on("end", () => response.end(`${eventHead("end")},"content":${JSON.stringify(reply)}}\n\n`))
    })
    upstream.on("error", () => response.destroy())
    response.on("close", () => {
      if (!response.writableFinished) upstream.destroy()
    })
    upstream.end(question)
  })
})
server.keepAliveTimeout = 120_000

endWithParent()
server.listen(0, "127.0.0.1", 4096, () => {
  const address = server.address()
  tell({ port: typeof address === "object" ? address?.port : undefined })
})
