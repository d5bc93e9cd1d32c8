import { Effect } from "effect"
import { SqlClient } from "effect/sql"
import { PgClient } from "@effect/sql-pg"
import { Duplex } from "node:stream"
import { PGlite } from "@electric-sql/pglite"
import * as fs from "node:fs"
const rss=()=>Math.round(process.memoryUsage().rss/1e6)
const tar = fs.readFileSync(fs.globSync("node_modules/.cache/voice-agent-api/*.tar")[0]!)
let t=performance.now()
const pg = await PGlite.create({loadDataDir:new Blob([tar]), startParams:[...PGlite.defaultStartParams,'-c','shared_buffers=16MB']})
console.log('start',performance.now()-t, rss())
const stream=()=>{ const d:Duplex= new Duplex({read(){}, write(chunk,_e,cb){ pg.execProtocolRawStream(chunk,{onRawData:(b)=>{d.push(Buffer.from(b))}}).then(()=>cb(),cb)}}); return d}
const p = Effect.gen(function*(){
  const sql = yield* SqlClient.SqlClient
  yield* sql`create table t(a int primary key, b text)`
  const bench = (name:string, n:number, e: Effect.Effect<unknown, unknown>) => Effect.gen(function*(){ const t=performance.now(); const c=process.cpuUsage(); for(let i=0;i<n;i++) yield* e; const c2=process.cpuUsage(c); console.log(name, Math.round((performance.now()-t)/n*1000),'us', 'cpu', Math.round((c2.user+c2.system)/n)) })
  for (let r=0;r<3;r++){
  yield* bench("select", 1000, sql`select 1 as x`)
  let i=0
  yield* sql`delete from t`
  yield* bench("insert", 1000, Effect.suspend(()=>sql`insert into t values(${i++}, ${"x"})`))
  yield* bench("tx", 300, sql.withTransaction(Effect.suspend(()=>sql`insert into t values(${i++}, ${"x"})`)))
  }
  console.log(yield* sql`select count(*) from t`, rss())
})
await Effect.runPromise(p.pipe(Effect.provide(PgClient.layer({stream,username:'postgres',maxConnections:1}))) as any)
process.exit(0)
