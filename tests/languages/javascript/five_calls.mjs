import { setTimeout as sleep } from "node:timers/promises";
import { Locks } from "./leasehold.mjs";

const key = process.argv[2] ?? "reports/nightly";
const locks = new Locks(process.env.LOCK_URL ?? "http://127.0.0.1:8080", process.env.LOCK_TOKEN);

const lease = await locks.acquire(key, { ttl_ms: 6000, wait_ms: 10_000, holder: "javascript" });
console.log(`acquired with token ${lease.fencingToken}, mine for ${lease.leftMs()} ms`);

try {
  await locks.acquire(key);
} catch (refused) {
  if (refused.status !== 423) throw refused;
  const { holder, expires_in_ms } = refused.problem;
  console.log(`423 lock-held: ${holder} has it for ${expires_in_ms} ms`);
}

await sleep(lease.renewAfterMs); // the work; long work renews each time that renewAfterMs has passed
await lease.renew();
console.log(`renewed, mine for ${lease.leftMs()} ms`);

await lease.release();
console.log("released");

try {
  await lease.renew();
} catch (refused) {
  if (refused.status !== 409) throw refused;
  console.log(`409 lease-lost: ${refused.problem.reason}`); // a lease that is over does not come back: stop the work
}
