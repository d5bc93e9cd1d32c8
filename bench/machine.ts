/**
 * Owns what Linux tells of processes: CPU time and memory. Elsewhere it tells nothing, and the report shows dashes.
 */
import { readFileSync } from "node:fs"
import { cpus } from "node:os"

/** What the kernel counts CPU time in. `USER_HZ` is 100 on every Linux platform that Node supports. */
const tickMillis = 10

const read = (path: string): string | undefined => {
  try {
    return readFileSync(path, "utf8")
  } catch {
    return undefined
  }
}

/** CPU time of a process with all its threads, user and system, in milliseconds. */
export const cpuMillisOf = (pid: number): number => {
  const stat = read(`/proc/${pid}/stat`)
  if (stat === undefined) return Number.NaN
  // The second field is the name, in parentheses, and may hold spaces. The times are fields 14 and 15.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
  return (Number(fields[11]) + Number(fields[12])) * tickMillis
}

/** CPU time of the whole machine, idle time left out, in milliseconds. */
export const busyMillis = (): number => {
  let busy = 0
  for (const { times } of cpus()) busy += times.user + times.nice + times.sys + times.irq
  return busy
}

/** Resident memory of a process in MiB. */
export const residentMebibytes = (pid: number): number => {
  const kibibytes = /^VmRSS:\s*(\d+)/m.exec(read(`/proc/${pid}/status`) ?? "")?.[1]
  return kibibytes === undefined ? Number.NaN : Number(kibibytes) / 1024
}
