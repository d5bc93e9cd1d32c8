import { Effect, ConfigProvider } from "effect"
import { SqlClient } from "effect/sql"
import * as Db from "../../src/db/Db.ts"
import { AppConfig } from "../../src/Config.ts"
const rss=()=>Math.round(process.memoryUsage().rss/1e6)
const dir=process.argv[2]!
const t=performance.now()
const p = Effect.gen(function*(){
  const sql = yield* SqlClient.SqlClient
  const info = yield* Db.DbInfo
  console.log(info.description, 'ready ms', Math.round(performance.now()-t), 'rss', rss())
  yield* sql`create table if not exists t(a int primary key, b text)`
  const bench = (name:string, n:number, e: Effect.Effect<unknown, unknown>) => Effect.gen(function*(){ const t=performance.now(); const c=process.cpuUsage(); const el=performance.eventLoopUtilization(); for(let i=0;i<n;i++) yield* e; const c2=process.cpuUsage(c); console.log(name, Math.round((performance.now()-t)/n*1000),"us cpu", Math.round((c2.user+c2.system)/n), 'main', Math.round(performance.eventLoopUtilization(el).active/n*1000), "rss", rss()) })
  for (let r=0;r<3;r++){
  yield* bench("select", 1000, sql`select 1 as x`)
  let i=0
  yield* sql`delete from t`
  yield* bench("insert", 500, Effect.suspend(()=>sql`insert into t values(${i++}, ${"x"})`))
  yield* bench("tx", 300, sql.withTransaction(Effect.suspend(()=>sql`insert into t values(${i++}, ${"x"})`)))
  }
  yield* Effect.sleep(3000)
  console.log('idle', rss())
  return performance.now()
})
const e=await Effect.runPromise(p.pipe(Effect.provide(Db.layer), Effect.provide(AppConfig.layer), Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({DATA_DIR:dir}))) ) as Effect.Effect<any,any>)
console.log('close ms',Math.round(performance.now()-e))
