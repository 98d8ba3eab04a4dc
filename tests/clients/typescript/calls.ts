// The calls that every generated client must make: here with openapi-generator's for TypeScript.
import assert from "node:assert/strict";
import { Configuration, LocksApi, ProblemFromJSON, ResponseError, type Problem } from "./generated";

const key = "clients/typescript";

async function calls(server: string, token: string): Promise<void> {
  const locks = new LocksApi(new Configuration({ basePath: server, accessToken: token }));

  const acquireBody = { ttlMs: 30_000, holder: "first", metadata: { job: "42" } };
  const answer = await locks.acquireRaw({ key, acquireBody });
  const lease = await answer.value();
  assert.equal(answer.raw.status, 201);
  assert.equal(lease.key, key);
  assert.equal(lease.holder, "first");
  assert.deepEqual(lease.metadata, { job: "42" });
  assert.ok(lease.fencingToken > 0 && lease.expiresInMs > 0 && lease.expiresInMs <= 30_000);
  assert.ok(lease.acquiredAt < lease.expiresAt);

  const held = await refused(423, locks.acquire({ key }));
  assert.equal(held.type, "urn:leasehold:problem:lock-held");
  assert.equal(held.holder, "first");
  assert.equal(held.fencingToken, lease.fencingToken);
  assert.equal(held.waiters, 0);
  assert.ok(held.heldForMs !== undefined && held.heldForMs >= 0);
  assert.ok(held.expiresInMs !== undefined && held.expiresInMs > 0 && held.expiresInMs <= 30_000);

  const renewed = await locks.renew({ key, leaseId: lease.leaseId, renewBody: { ttlMs: 60_000 } });
  assert.equal(renewed.fencingToken, lease.fencingToken);
  assert.ok(renewed.expiresInMs > 30_000);

  assert.equal((await locks.releaseRaw({ key, leaseId: lease.leaseId })).raw.status, 204);

  const lost = await refused(409, locks.renew({ key, leaseId: lease.leaseId }));
  assert.equal(lost.type, "urn:leasehold:problem:lease-lost");
  assert.equal(lost.reason, "not_held");
}

/** The problem that a refusal carries. */
async function refused(status: number, call: Promise<unknown>): Promise<Problem> {
  const refusal = await call.then(() => undefined, (error: unknown) => error);
  assert.ok(refusal instanceof ResponseError);
  assert.equal(refusal.response.status, status);
  return ProblemFromJSON(await refusal.response.json());
}

const [server = "", token = ""] = process.argv.slice(2);
calls(server, token).then(() => console.log("typescript: acquired, held, renewed, released, lost"));
