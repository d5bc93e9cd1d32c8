/**
 * What tests of tools, prompts, agents and adapters are written with. See docs/TESTING.md.
 *
 * Does not need a test runner: what it offers are layers, effects and plain functions.
 */

export { Cassette, type CassetteMode, type CassetteOptions } from "./Cassette.ts"
export type { ContractTests } from "./Contract.ts"
export { dbContract } from "./DbContract.ts"
export { llmContract, llmContractUnscripted } from "./LlmContract.ts"
export type { ReplyFunction, Script, Scripted } from "./Script.ts"
export { ScriptedModel, type ScriptedModelOptions } from "./ScriptedModel.ts"
export * from "./ScriptedReply.ts"
export type {
  ScriptedMessage,
  ScriptedOutcome,
  ScriptedRequest,
  ScriptedRequestBody,
  ScriptedToolResult
} from "./ScriptedRequest.ts"
export { type ScriptedServer, type ScriptedServerOptions, startScriptedServer } from "./ScriptedServer.ts"
export { type AppClient, TestApp, type TestAppOptions, type TurnRun } from "./TestApp.ts"
export { type SpanEvent, type SpanNode, TurnSpans, type TurnTrace } from "./TurnSpans.ts"
