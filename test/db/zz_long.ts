import { Effect, ConfigProvider } from "effect"
import { SqlClient } from "effect/sql"
import * as v8 from "node:v8"
for (const f of (process.env.FLAGS??'').split(' ').filter(Boolean)) v8.setFlagsFromString(f)
const Db = await import("../../src/db/Db.ts")
const { AppConfig } = await import("../../src/Config.ts")
const rss=()=>Math.round(process.memoryUsage().rss/1e6)
const dir=process.argv[2]!
let peak=0; setInterval(()=>{peak=Math.max(peak,rss())},20).unref()
const t=performance.now()
const p = Effect.gen(function*(){
  const sql = yield* SqlClient.SqlClient
  console.log('ready ms', Math.round(performance.now()-t), 'rss', rss())
  yield* sql`create table if not exists m(id text primary key, sid text, seq int, body jsonb, at timestamptz default now())`
  yield* sql`create index if not exists m_sid on m(sid, seq)`
  yield* sql`truncate m`
  let i=0
  const turn = sql.withTransaction(Effect.gen(function*(){
    const s='s'+(i%50); i++
    yield* sql`insert into m ${sql.insert({id:'a'+i, sid:s, seq:i, body: JSON.stringify({text:'hello '.repeat(20),i})})}`
    yield* sql`select id, seq, body, at from m where sid=${s} order by seq desc limit 20`
    yield* sql`update m set body = body || '{"x":1}' where id=${'a'+i}`
  }))
  for (let r=0;r<6;r++){
    const t=performance.now(); const c=process.cpuUsage(); const el=performance.eventLoopUtilization()
    for(let k=0;k<500;k++) yield* turn
    const c2=process.cpuUsage(c); console.log('turn', Math.round((performance.now()-t)/500*1000),"us cpu", Math.round((c2.user+c2.system)/500), 'main', Math.round(performance.eventLoopUtilization(el).active/500*1000), "rss", rss(), 'peak', peak); peak=0
  }
  yield* Effect.sleep(2000)
  console.log('idle', rss())
})
await Effect.runPromise(p.pipe(Effect.provide(Db.layer), Effect.provide(AppConfig.layer), Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({DATA_DIR:dir}))) ) as Effect.Effect<any,any>)
