-- Runs a batch of operations, one after the other, behind one guard.
-- KEYS: locks, leases, servers, reservations, and the two hashes of releases.
-- ARGV: see the first lines; then for each operation its verb, its lock key and its arguments as one text.
-- Reply: {'ok', now, how far expiry is behind it, replicas online, writes, leases held, expired leases, forgotten
-- releases, {reply, ...}, {lock, waiter, ...}}. The last list has the reservations for waiters of the calling server. A
-- reply is a text, or a list of texts; its first field names what happened. Or {'guard', reason, detail}, and the
-- script did nothing.
--
-- The operations run on copies in memory and see each other's effects. Then `write.lua` stores all effects at once: the
-- truth first, as one command. An operation that fails leaves no effect, and the others run again without it.
--
-- What the modules share is in the table `batch`: a module's use of it names where it comes from. What most of them
-- need is a local.

local activation, server, prefix, estimate, tolerance, expiry_limit, least_replicas, grace = unpack(ARGV, 1, 8)
local FIRST = 9
local LOCKS = KEYS[1]

-- The first read has the record of the activation and all locks of the batch.
local fields, operations = { '#replid', '#activation', '#granting_from', '#token', '#writes', '#held', '#releases' }, {}
local RECORD = #fields
for at = FIRST, #ARGV, 3 do
  local operation = { verb = ARGV[at], key = ARGV[at + 1], arguments = ARGV[at + 2] }
  operations[#operations + 1] = operation
  fields[#fields + 1] = operation.key
end
local read = redis.call('HMGET', LOCKS, unpack(fields))
local replid, activated_as, granting_from, token, writes, held, releases = unpack(read, 1, RECORD)
if activated_as ~= activation then return { 'guard', 'activation', activated_as or '' } end

local now = time_us()

local online, at = 0, string.find(info, 'state=online', 1, true)
while at do
  online, at = online + 1, string.find(info, 'state=online', at + 1, true)
end

-- Why acquisitions, renewals and reads do not run now. The end of a lease needs role and activation only.
local refusals = {}
if online < tonumber(least_replicas) then
  refusals = { acquire = 'refused\treplicas', renew = 'refused\treplicas' }
end
local refusal = not (replid and string.find(info, 'master_replid:' .. replid, 1, true)) and 'refused\tinactive'
  or math.abs(now - estimate) > tonumber(tolerance) and 'refused\tclock'
if refusal then
  refusals = {
    acquire = refusal, renew = refusal, inspect = refusal, list = refusal, sweep = refusal, resume = refusal,
  }
end

-- How long no new lease may be granted: until lost leases are over, or until all servers have reported.
local paused_us = now < tonumber(granting_from or 0) and pause_us(LOCKS, KEYS[3], activation, now) or 0

local function int(number)
  return string.format('%d', number)
end

local batch = {
  LOCKS = LOCKS, LEASES = KEYS[2], SERVERS = KEYS[3], RESERVATIONS = KEYS[4], RELEASED = { KEYS[5], KEYS[6] },
  activation = activation, server = server, prefix = prefix, operations = operations, now_text = int(now),
  -- After a step of the clock leases are not over before the caller's limit, which counts on the lowest clock it has
  -- seen.
  expired_at = math.min(now, expiry_limit), grace = grace,
  paused_us = paused_us, grants = not refusals.acquire and paused_us == 0,
  -- The state of the remembered releases, or nil if there are none.
  remembers = releases ~= '' and releases or nil,
}

-- The next fencing token or ticket.
local function next_number()
  batch.token = batch.token + 1
  batch.operation.changed = true
  return int(batch.token)
end

-- A lease in the text of a lock: 'L', 'S' if it was shortened, 'H' if it is released and the lock is held, or for a
-- reservation 'R' with ticket and server; token, when it was acquired, deadline, grace, TTL with '+' and how long the lock
-- is held at least, renewals, attempt; and the request: lease id, idempotency key, fingerprint, and what only clients
-- read. Lua matches this set in half the time of `%x` or `%d`.
local LEASE = '(([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t+]*)%+?([^\t]*)\t([^\t]*)\t([^\t]*)\t'
  .. '(([^\t]*)\t([^\t]*)\t([^\t]*)[^\n]*))\n'

-- Takes the text of a lock, unless the batch has it.
local function know(key, text)
  batch.locks[key] = batch.locks[key] or {
    key = key, text = text or nil, queued = false, leases = nil, held = 0, expired = 0, changed = false, let_go = false,
  }
end

-- When others can have the lock.
local function over_at(lease)
  local ends = lease.deadline
  if lease.hold ~= '' and (lease.kind == 'L' or lease.kind == 'H') then
    ends = math.max(ends, lease.acquired + lease.hold)
  end
  return ends + lease.grace
end

-- The lock of a known key: its live leases and reservations, without those that are over.
local function load(key)
  local lock = batch.locks[key]
  if lock.leases then return lock end
  lock.leases = {}
  local text = lock.text
  if not text then return lock end
  lock.queued = string.sub(text, 1, 2) == 'Q\n'
  if lock.queued then text = string.sub(text, 3) end
  for line, kind, token, acquired, deadline, grace, ttl, hold, renewals, attempt, request, id, idem, fingerprint in
    string.gmatch(text, LEASE) do
    local lease = {
      line = line, kind = kind, token = token, acquired = acquired, deadline = tonumber(deadline), grace = grace,
      ttl = ttl, hold = hold, renewals = renewals, attempt = attempt, request = request, id = id, idem = idem,
      fingerprint = fingerprint,
    }
    if #kind > 1 then
      lease.ticket, lease.server = string.match(kind, '^R (%d+) (%x+)$')
    elseif grace - batch.grace < 0 then
      lease.grace, lease.line = batch.grace, nil
    end
    local is_lease = kind == 'L' or kind == 'S'
    if is_lease then lock.held = lock.held + 1 end
    if batch.expired_at < over_at(lease) then
      lock.leases[#lock.leases + 1] = lease
    elseif is_lease then
      lock.expired = lock.expired + 1
    end
  end
  return lock
end

-- The operation changes this lock, and a lease of it.
local function change(lock, lease)
  if not lock.changed then
    lock.changed, batch.changed[#batch.changed + 1] = true, lock
  end
  batch.operation.changed = true
  if lease then lease.line = nil end
end

-- The lease or reservation that keeps others from an exclusive lock.
local function live(lock)
  return lock.leases[1]
end

-- A lease as the text of its lock and replies have it.
local function line_of(lease)
  if not lease.line then
    local kind = lease.ticket and 'R ' .. lease.ticket .. ' ' .. lease.server or lease.kind
    local hold = lease.hold ~= '' and '+' .. lease.hold or ''
    lease.line = kind .. '\t' .. lease.token .. '\t' .. lease.acquired .. '\t' .. int(lease.deadline)
      .. '\t' .. lease.grace .. '\t' .. lease.ttl .. hold .. '\t' .. lease.renewals .. '\t' .. lease.attempt
      .. '\t' .. lease.request
  end
  return lease.line
end

-- A module, made when an operation needs it.
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
