/**
 * A client for Leasehold in one file, with `fetch` alone: copy it. For Node 20 and newer, Deno, Bun and browsers.
 * All times are in milliseconds. Without `await using`, call `release()` in a `finally` block.
 *
 *     await using lease = await new Locks().acquire("reports/nightly");
 *     for (const part of parts) {
 *       lease.check();
 *       await write(part, lease.fencingToken);
 *     }
 */

const POLL_MS = 20_000; // how long one request waits for a lock: longer waits are made of several
const PATIENCE_MS = 10_000; // for how long an acquisition is repeated at least while no server can serve
const ANSWER_MS = 5_000; // a healthy server answers sooner, apart from the time that a request waits

export type AcquireOptions = {
  ttlMs?: number; // 30 s if absent
  waitMs?: number; // without limit if absent; 0: do not wait
  maxHoldMs?: number; // after so long the lease is renewed no more, and counts as lost
  holdAtLeastMs?: number; // the lock stays held for so long, also when it is released sooner
  holder?: string;
  metadata?: Record<string, string>;
  signal?: AbortSignal; // ends the wait; a lock that is granted at that moment stays held for up to 10 s
};

type Problem = { type?: string; detail?: string; holder?: string; expires_in_ms?: number; [field: string]: unknown };
type Grant = { lease_id: string; fencing_token: number; ttl_ms: number; waited_ms: number; expires_in_ms: number };
type Call = (method: string, subpath: string, timeoutMs: number) => Promise<Grant | Refused | NoAnswer>;

/** A server refused the call. `status` 423: another client holds the lock; see `problem`. */
export class Refused extends Error {
  readonly status: number;
  readonly problem: Problem;
  readonly retryAfterMs: number;
  constructor({ status, statusText, headers }: Response, problem: Problem) {
    super(`${status} ${problem.type ?? "about:blank"}: ${problem.detail ?? statusText}`);
    const retryAfterMs = 1000 * Number(headers.get("Retry-After")) || 0;
    [this.status, this.problem, this.retryAfterMs] = [status, problem, retryAfterMs];
  }
}

/** No server answered. The call may have been done. */
export class NoAnswer extends Error {}

/** The lock may be another client's: stop the work. */
export class Lost extends Error {}

/** The servers of one service, tried in turn: addresses with commas between them. */
export class Locks {
  #servers: string[];
  #current = 0;
  #headers: Record<string, string> = { "Content-Type": "application/json" };
  constructor(servers?: string, token?: string) {
    const { env } = (globalThis as { process?: { env?: Record<string, string | undefined> } }).process ?? {};
    const addresses = (servers || env?.LEASEHOLD_SERVER || "http://127.0.0.1:8080").split(",");
    this.#servers = addresses.map((address) => new URL(address.trim()).href.replace(/\/+$/, ""));
    token ||= env?.LEASEHOLD_TOKEN;
    if (token) this.#headers.Authorization = `Bearer ${token}`;
  }

  /** Waits up to `waitMs` for the lock, and returns a lease that is renewed until it is released. */
  async acquire(key: string, options: AcquireOptions = {}): Promise<Lease> {
    const { waitMs = Infinity, maxHoldMs = Infinity, signal = null, ...others } = options;
    const { ttlMs: ttl_ms = 30_000, holdAtLeastMs: hold_at_least_ms = 0, ...fields } = others;
    const path = `/locks/${encodeURIComponent(key)}`; // the key is one segment: its slashes become %2F
    const random = Array.from(crypto.getRandomValues(new Uint32Array(4)), (word) => word.toString(16).padStart(8, "0"));
    const post = { method: "POST", signal, headers: { "Idempotency-Key": random.join("") } }; // one place in the queue
    const begun = performance.now();
    let [patientUntil, failures] = [begun + Math.max(waitMs < Infinity ? waitMs : 0, PATIENCE_MS), 0];
    for (;;) {
      signal?.throwIfAborted();
      const sent = later(0);
      const poll = Math.min(Math.max(begun + waitMs - sent.steady, 0), POLL_MS);
      const body = JSON.stringify({ ...fields, ttl_ms, hold_at_least_ms, wait_ms: Math.ceil(poll) });
      // An answer that comes a TTL after the wait is of no use, because its lease is over.
      const answer = await this.#call(path, poll + Math.min(ttl_ms, ANSWER_MS), { ...post, body });
      if (!(answer instanceof Error)) {
        const id = { "Lease-Id": answer.lease_id };
        const call: Call = (method, subpath, ms) => this.#call(path + subpath, ms, { method, headers: id });
        return new Lease(call, answer, sent, maxHoldMs);
      }
      signal?.throwIfAborted();
      const { status, retryAfterMs } = answer instanceof Refused ? answer : { status: 503, retryAfterMs: 0 };
      const waits = status === 423 && performance.now() < begun + waitMs; // another client has the lock: ask on
      if (waits) [patientUntil, failures] = [waitMs === Infinity ? Infinity : patientUntil, 0];
      const pause = waits ? sent.steady + 250 - performance.now() : Math.max(backoff(failures++), retryAfterMs);
      const isFinal = status < 500 && status !== 408 && status !== 429;
      if (!waits && (isFinal || performance.now() + pause >= patientUntil)) throw answer;
      await sleep(pause);
    }
  }

  /** One attempt at the server that answered last. After a failure the next attempt goes to the next server. */
  async #call(path: string, timeoutMs: number, { headers, signal, ...init }: RequestInit) {
    const current = this.#current;
    const url = this.#servers[current % this.#servers.length] + path;
    const time = AbortSignal.timeout(Math.ceil(timeoutMs));
    const end = signal ? AbortSignal.any([time, signal]) : time;
    const request = { ...init, headers: { ...this.#headers, ...headers }, signal: end };
    const failed = (error: any) => new NoAnswer(`${url}: ${error.cause?.code ?? error.message}`, { cause: error });
    const answer = await read(fetch(url, { ...request, redirect: "manual" })).catch(failed); // a redirect makes a GET
    if (isUnclear(answer)) this.#current = current + 1;
    return answer;
  }
}

/** A lock that is held. `lost` is aborted before it may be another client's; `check()` throws then. */
export class Lease {
  readonly id: string;
  readonly fencingToken: number;
  #lost = new AbortController();
  readonly lost = this.#lost.signal;
  #call: Call;
  #ttl: number;
  #ends: Moment;
  #until!: Moment;
  #renewAt!: Moment;
  #reported = false; // whether the program was told how the lease ended
  readonly [Symbol.asyncDispose] = () => this.release();

  /** @internal */
  constructor(call: Call, grant: Grant, sent: Moment, maxHoldMs: number) {
    [this.id, this.fencingToken, this.#ttl, this.#call] = [grant.lease_id, grant.fencing_token, grant.ttl_ms, call];
    this.#ends = later(grant.waited_ms + maxHoldMs, sent);
    this.#extend(grant, sent);
    this.check();
    this.#watch();
  }

  /** For how long the work can go on without a further renewal. */
  left = () => Math.max(Math.min(left(this.#until), left(this.#ends)), 0);

  /** Throws `Lost` if the lock may be another client's soon. Call it before each step of the work. */
  check(): void {
    if (this.left() > 0) return;
    this.#end();
    this.#reported = true;
    throw this.lost.reason ?? new Lost("it was released");
  }

  /** Frees the lock. Throws `Lost` if the lease was over before and `check()` did not say so. */
  async release(): Promise<void> {
    const isNews = this.left() === 0 && !this.#reported;
    if (isNews) this.#end();
    [this.#reported, this.#ends] = [true, later(0)];
    const giveUp = later(Math.min(left(this.#until), PATIENCE_MS));
    const attempt = () => this.#call("DELETE", "", Math.min(this.#ttl / 3, ANSWER_MS));
    let answer = await attempt();
    for (let n = 0; isUnclear(answer) && left(giveUp) > 0; answer = await attempt()) await sleep(backoff(n++));
    if (answer instanceof Error && !this.lost.aborted) console.warn(`leasehold: the lease was not released: ${answer}`);
    if (isNews) throw this.lost.reason;
  }

  #extend(grant: Grant, sent: Moment): void {
    // The lease counts from the sending, and ends for its holder a little before others can have it.
    this.#until = later(grant.waited_ms + grant.expires_in_ms - Math.min(this.#ttl / 10, 1000), sent);
    this.#renewAt = later(grant.waited_ms + this.#ttl / 3, sent);
  }

  #end(why = left(this.#ends) > 0 ? "it was not renewed in time" : "it was held for as long as it may be"): void {
    if (!this.#reported) this.#lost.abort(new Lost(why)); // the first reason stays
    this.#ends = later(0);
  }

  // Timers do not count suspensions: look at the clocks now and then. A renewal that hangs does not hold this up.
  #watch(): void {
    if (this.left() === 0) return this.#end();
    if (left(this.#renewAt) <= 0) void this.#renew();
    const timer = setTimeout(() => this.#watch(), Math.min(this.left(), left(this.#renewAt), this.#ttl / 20, 500));
    Object(timer).unref?.(); // a lease does not keep a Node process alive
  }

  async #renew(): Promise<void> {
    const sent = later(0);
    this.#renewAt = later(Infinity); // not while this renewal lasts
    const answer = await this.#call("PUT", "/lease", Math.min(this.#ttl / 6, ANSWER_MS));
    if (answer instanceof Error) this.#renewAt = later(Math.min(this.#ttl / 20, 1000));
    else if (this.left() > 0) this.#extend(answer, sent); // an answer that comes too late revives nothing
    if (answer instanceof Refused && answer.status === 409) this.#end(answer.message);
  }
}

/** A moment on two clocks: one may stand still while the machine is suspended, the other may be set back. */
type Moment = { steady: number; wall: number };
const now = () => ({ steady: performance.now(), wall: Date.now() });
const later = (ms: number, { steady, wall } = now()): Moment => ({ steady: steady + ms, wall: wall + ms });
const left = ({ steady, wall }: Moment) => Math.min(steady - performance.now(), wall - Date.now());

/** Pauses double up to 2 s. The random part keeps clients apart that fail at the same moment. */
const backoff = (failures: number) => Math.min(100 * 2 ** failures, 2000) * (0.5 + Math.random() / 2);
const sleep = (ms: number) => new Promise((done) => setTimeout(done, Math.min(ms, 2 ** 31 - 1))); // a timer's longest
const isUnclear = (reply: unknown) => reply instanceof NoAnswer || (reply instanceof Refused && reply.status >= 500);

async function read(reply: Promise<Response>): Promise<Grant | Refused> {
  const response = await reply;
  const answer = await response.json().catch(() => undefined); // a proxy's answer may be no JSON
  if (!response.ok) return new Refused(response, answer ?? {});
  if (response.status !== 204 && !answer?.lease_id) throw new Error("this is no answer of Leasehold");
  return answer;
}
