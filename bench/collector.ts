/**
 * Owns the collector: a process that takes spans by OTLP gRPC and lets them be. It says how many bytes came, so that a
 * run in which nothing was exported can't pass for one in which it was.
 */
import { Server, ServerCredentials, type sendUnaryData } from "@grpc/grpc-js"
import { endWithParent, tell } from "./messages.ts"

let received = 0

const asIs = (bytes: Buffer) => bytes

const server = new Server()
server.addService(
  {
    export: {
      path: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
      requestStream: false,
      responseStream: false,
      requestSerialize: asIs,
      requestDeserialize: asIs,
      responseSerialize: asIs,
      responseDeserialize: asIs
    }
  },
  {
    export: (call: { readonly request: Buffer }, done: sendUnaryData<Buffer>) => {
      received += call.request.length
      done(null, Buffer.alloc(0))
    }
  }
)

process.on("message", () => tell(received))
endWithParent()
server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) => {
  if (error !== null) throw error
  tell({ port })
})
