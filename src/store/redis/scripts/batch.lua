-- Runs a batch of operations, one after the other, behind one guard.
-- KEYS: locks, leases, servers, reservations, and the two hashes of releases.
-- ARGV: see the first lines; then for each operation its verb, its lock key and its arguments as one text.
-- Reply: {'ok', now, replicas online, writes, leases held, expired leases, forgotten releases, {reply, ...},
-- {lock, waiter, ...}}. The last list has the reservations for waiters of the calling server. A reply is a text, or a list
-- of texts; its first field names what happened. Or {'guard', reason, detail}, and the script did nothing.
--
-- The operations run on copies in memory and see each other's effects. Then `write.lua` stores all effects at once: the
-- truth first, as one command. An operation that fails leaves no effect, and the others run again without it.

local LOCKS, LEASES, SERVERS, RESERVATIONS, RELEASED = KEYS[1], KEYS[2], KEYS[3], KEYS[4], { KEYS[5], KEYS[6] }
local activation, server, prefix, estimate, tolerance, expiry_limit, least_replicas, own_grace = unpack(ARGV, 1, 8)
local FIRST = 9

local rcall, find, match, format, min, max = redis.call, string.find, string.match, string.format, math.min, math.max

-- The first read has the record of the activation and all locks of the batch.
local fields, operations = { '#replid', '#activation', '#granting_from', '#token', '#writes', '#held', '#releases' }, {}
local RECORD = #fields
for at = FIRST, #ARGV, 3 do
  local operation = { verb = ARGV[at], key = ARGV[at + 1], arguments = ARGV[at + 2] }
  operations[#operations + 1] = operation
  fields[#fields + 1] = operation.key
end
local read = rcall('HMGET', LOCKS, unpack(fields))
local replid, activated_as, granting_from, token, writes, held, releases = unpack(read, 1, RECORD)
if activated_as ~= activation then return { 'guard', 'activation', activated_as or '' } end

local now = time_us()
-- After a step of the clock leases are not over before the caller's limit, which counts on the lowest clock it has seen.
local expired_at = min(now, expiry_limit)
own_grace = tonumber(own_grace)

local online, at = 0, find(info, 'state=online', 1, true)
while at do
  online, at = online + 1, find(info, 'state=online', at + 1, true)
end

-- Why acquisitions, renewals and reads do not run now. The end of a lease needs role and activation only.
local refusals = {}
if online < tonumber(least_replicas) then
  refusals = { acquire = 'refused\treplicas', renew = 'refused\treplicas' }
end
local refusal = not (replid and find(info, 'master_replid:' .. replid, 1, true)) and 'refused\tinactive'
  or math.abs(now - estimate) > tonumber(tolerance) and 'refused\tclock'
if refusal then
  refusals = { acquire = refusal, renew = refusal, inspect = refusal, list = refusal, sweep = refusal }
end

-- How long no new lease may be granted: until lost leases are over, or until all servers have reported.
local paused_us = now < tonumber(granting_from or 0) and pause_us(LOCKS, SERVERS, activation, now) or 0
local grants = not refusals.acquire and paused_us == 0

-- What the operations read and change. A repetition of the batch begins with the texts again.
local ctx

local function int(number)
  return format('%d', number)
end
local now_text = int(now)

-- The next fencing token or ticket.
local function next_number()
  ctx.token = ctx.token + 1
  ctx.operation.changed = true
  return int(ctx.token)
end

-- Four fields of a text, with their tabs. Lua matches this set in half the time of `%x` or `%d`.
local FOUR = '([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)\t'
-- The line of a lease (L) or a reservation (R) in the text of a lock.
local LEASE = FOUR .. FOUR .. FOUR .. '([^\t]*)\t([^\t]*)\t([^\n]*)\n'

-- The lock of a key: its live leases and reservations, without those that are over.
local function load(key)
  local lock = ctx.locks[key]
  if lock then return lock end
  local text = ctx.texts[key]
  lock = { key = key, text = text, leases = {}, held = 0, expired = 0 }
  ctx.locks[key] = lock
  if not text then return lock end
  lock.queued = string.sub(text, 1, 2) == 'Q\n'
  if lock.queued then text = string.sub(text, 3) end
  for kind, id, token, acquired, deadline, grace, ttl, renewals, attempt, idem, fingerprint, ticket, server, holder, metadata in
    string.gmatch(text, LEASE) do
    local lease = {
      id = id, token = token, acquired = acquired, deadline = tonumber(deadline), grace = max(grace, own_grace), ttl = ttl,
      renewals = renewals, attempt = attempt, idem = idem, fingerprint = fingerprint, holder = holder, metadata = metadata,
    }
    if kind == 'R' then
      lease.ticket, lease.server, lease.grace = ticket, server, 0
    else
      lock.held = lock.held + 1
    end
    if expired_at < lease.deadline + lease.grace then
      lock.leases[#lock.leases + 1] = lease
    elseif kind == 'L' then
      lock.expired = lock.expired + 1
    end
  end
  return lock
end

-- The operation changes this lock.
local function change(lock)
  ctx.changed[lock.key], ctx.operation.changed = lock, true
end

-- The lease or reservation that keeps others from an exclusive lock.
local function live(lock)
  return lock.leases[1]
end

-- When others can have the lock, on the present clock.
local function over_at(lease)
  return lease.deadline + lease.grace + now - expired_at
end

-- A reply about a lease that ends at `deadline`. `head` begins the reply.
local function reply_about(lease, head, deadline)
  return head .. '\t' .. lease.token .. '\t' .. lease.acquired .. '\t' .. int(deadline) .. '\t' .. lease.ttl .. '\t' .. lease.renewals
    .. '\t' .. lease.holder .. '\t' .. lease.metadata
end

-- A module, made when an operation needs it: its functions cost time in each call of the script.
local define
local modules = {}
local function need(name)
  local module = modules[name]
  if not module then
    module = define(name)
    modules[name] = module
  end
  return module
end
