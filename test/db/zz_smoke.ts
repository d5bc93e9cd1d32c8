import { Effect } from "effect"
import { SqlClient } from "effect/sql"
import * as TestDb from "../support/TestDb.ts"
import * as Db from "../../src/db/Db.ts"
const p = Effect.gen(function*(){
  const sql = yield* SqlClient.SqlClient
  const info = yield* Db.DbInfo
  console.log(info.description, process.memoryUsage().rss/1e6)
  yield* sql`create table t(a int primary key, b text)`
  const bench = (name:string, n:number, e: Effect.Effect<unknown, unknown>) => Effect.gen(function*(){ const t=performance.now(); const c=process.cpuUsage(); for(let i=0;i<n;i++) yield* e; const c2=process.cpuUsage(c); console.log(name, Math.round((performance.now()-t)/n*1000),"us cpu", Math.round((c2.user+c2.system)/n), "rss", process.memoryUsage().rss/1e6) })
  for (let r=0;r<3;r++){
  yield* bench("select", 1000, sql`select 1 as x`)
  let i=0
  yield* sql`delete from t`
  yield* bench("insert", 1000, Effect.suspend(()=>sql`insert into t values(${i++}, ${"x"})`))
  yield* bench("tx", 300, sql.withTransaction(Effect.suspend(()=>sql`insert into t values(${i++}, ${"x"})`)))
  }
  console.log(yield* sql`select count(*) from t`, process.memoryUsage().rss/1e6)
})
const t=performance.now()
await Effect.runPromise(p.pipe(Effect.provide(TestDb.layer)))
console.log('total',performance.now()-t)
