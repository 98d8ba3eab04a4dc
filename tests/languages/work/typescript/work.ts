// Works under a lease: work.ts KEY SECONDS FILE [WORKERS]. The workers write to the file what they do, and when.

import { appendFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Locks, type AcquireOptions, type Lease } from "./leasehold.js";

const [key = "", seconds, path = "", workers = "1"] = process.argv.slice(2);
const { WORK_TTL = "3", WORK_WAIT, WORK_MAX_HOLD } = process.env;
const options: AcquireOptions = { holder: "typescript", ttlMs: Number(WORK_TTL) * 1000 };
if (WORK_WAIT) options.waitMs = Number(WORK_WAIT) * 1000;
if (WORK_MAX_HOLD) options.maxHoldMs = Number(WORK_MAX_HOLD) * 1000;
const locks = new Locks();

function log(word: string, lease: Lease, at: number): void {
  appendFileSync(path, `${word} ${lease.fencingToken} ${at}\n`);
}

async function work(): Promise<void> {
  {
    await using lease = await locks.acquire(key, options);
    log("begin", lease, Date.now());
    lease.lost.addEventListener("abort", () => log("signal", lease, Date.now()));
    const end = performance.now() + Number(seconds) * 1000;
    while (performance.now() < end) {
      const at = Date.now();
      lease.check();
      log("beat", lease, at);
      await sleep(20);
    }
    log("end", lease, Date.now());
  }
  console.log("released");
}

function report(failure: Error): void {
  console.error(`${failure.constructor.name}: ${failure.message}`);
  process.exitCode = 1;
}

for (let worker = 0; worker < Number(workers); worker++) void work().catch(report);
