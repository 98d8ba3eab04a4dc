// The calls that every generated client must make: here with the types of openapi-typescript, which openapi-fetch calls by.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { paths } from "./document";

const key = "clients/openapi-fetch";

async function calls(server: string, token: string): Promise<void> {
  const client = createClient<paths>({ baseUrl: server, headers: { Authorization: `Bearer ${token}` } });
  const path = { key };

  const acquired = await client.POST("/locks/{key}", {
    params: { path },
    body: { ttl_ms: 30_000, wait_ms: 0, holder: "first", metadata: { job: "42" } },
  });
  const lease = acquired.data;
  assert.equal(acquired.response.status, 201);
  assert.ok(lease);
  assert.equal(lease.key, key);
  assert.equal(lease.holder, "first");
  assert.deepEqual(lease.metadata, { job: "42" });
  assert.ok(lease.fencing_token > 0 && lease.expires_in_ms > 0 && lease.expires_in_ms <= 30_000);

  const { error: held, response } = await client.POST("/locks/{key}", { params: { path } });
  assert.equal(response.status, 423);
  assert.ok(held);
  assert.equal(held.type, "urn:leasehold:problem:lock-held");
  assert.equal(held.holder, "first");
  assert.equal(held.fencing_token, lease.fencing_token);
  assert.equal(held.waiters, 0);
  assert.ok(held.held_for_ms !== undefined && held.held_for_ms >= 0);
  assert.ok(held.expires_in_ms !== undefined && held.expires_in_ms > 0 && held.expires_in_ms <= 30_000);

  const header = { "Lease-Id": lease.lease_id };
  const renewed = await client.PUT("/locks/{key}/lease", { params: { path, header }, body: { ttl_ms: 60_000 } });
  assert.equal(renewed.data?.fencing_token, lease.fencing_token);
  assert.ok(renewed.data.expires_in_ms > 30_000);

  const released = await client.DELETE("/locks/{key}", { params: { path, header } });
  assert.equal(released.response.status, 204);

  const lost = await client.PUT("/locks/{key}/lease", { params: { path, header } });
  assert.equal(lost.response.status, 409);
  assert.equal(lost.error?.type, "urn:leasehold:problem:lease-lost");
  assert.equal(lost.error.reason, "not_held");
}

const [server = "", token = ""] = process.argv.slice(2);
calls(server, token).then(() => console.log("openapi-fetch: acquired, held, renewed, released, lost"));
