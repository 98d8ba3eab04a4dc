-- The queue of a lock: first come, first served. Mirrors `lock/queue.rs`.
--
-- Three keys hold it: the waiters' ids by ticket, the same by the moment until which their entries are kept, and the
-- entries. Besides the rules: an entry whose server has no heartbeat is passed over. The changes stay in memory until
-- `write`.
local ENTRY = '^([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t+]*)%+?([^\t]*)\t(([^\t]*)\t([^\t]*)\t([^\t]*).*)$'

-- How many expired entries one operation drops, and how many entries it reads at once.
local MAX_PRUNED, STEP = 64, 16

local queue = {}

-- The queue of a lock, with the entries that the batch has read (`before`) and changed (`after`).
local function of(lock)
  local known = batch.queues[lock.key]
  if not known then
    known = {
      tickets = batch.prefix .. 'queue:' .. lock.key, kept = batch.prefix .. 'kept:' .. lock.key,
      entries = batch.prefix .. 'entries:' .. lock.key, seen = {},
    }
    batch.queues[lock.key] = known
  end
  return known
end

local function see(of_lock, waiter)
  local known = of_lock.seen[waiter]
  if not known then
    local text = redis.call('HGET', of_lock.entries, waiter)
    local entry
    if text then
      local ticket, server, present, kept, attempt, ttl, hold, request, id, idem, fingerprint = string.match(text, ENTRY)
      entry = {
        ticket = ticket, server = server, present = tonumber(present), kept = tonumber(kept), attempt = attempt,
        ttl = ttl, hold = hold, request = request, id = id, idem = idem, fingerprint = fingerprint,
      }
    end
    known = { before = entry, after = entry }
    of_lock.seen[waiter] = known
  end
  return known
end

-- The sum of `weight` over the changes of the batch: of the new entry, less that of the old one.
local function difference(of_lock, weight)
  local sum = 0
  for _, known in pairs(of_lock.seen) do
    if known.before ~= known.after then
      sum = sum + (known.after and weight(known.after) or 0) - (known.before and weight(known.before) or 0)
    end
  end
  return sum
end

local function set(lock, waiter, entry)
  see(of(lock), waiter).after = entry
  lock.queued = true
  change(lock)
end

function queue.find(lock, waiter)
  return see(of(lock), waiter).after
end

function queue.drop(lock, waiter)
  -- A waiter can leave when Redis has no memory.
  lock.let_go = true
  set(lock, waiter, nil)
end

-- Gives a waiter an entry whose request is present until then, in place of its earlier one.
function queue.put(lock, waiter, asked, ticket, present)
  set(lock, waiter, {
    ticket = ticket, server = asked.server, attempt = asked.attempt, ttl = asked.ttl, hold = asked.hold,
    request = asked.request, id = asked.id, idem = asked.idem, fingerprint = asked.fingerprint, present = present,
    kept = asked.idem ~= '' and present + ENTRY_KEPT_US or present,
  })
end

-- Keeps the entry of a waiter whose request is over, for its repetition. The request counts as over for as long as the
-- skew already, so that a step back of the clock does not make it present again.
function queue.keep(lock, waiter, asked, ticket)
  queue.put(lock, waiter, asked, ticket, now)
  queue.find(lock, waiter).present = now - batch.grace
end

-- Lets a request wait, with its earlier ticket or a new one. Returns the ticket, or nil if the queue is full.
function queue.join(lock, waiter, asked, ticket, wait, max_waiters)
  if ticket == '' then
    local waiting = lock.queued and queue.count(lock) or 0
    if waiting >= tonumber(max_waiters) then return nil end
    ticket = next_number()
  end
  queue.put(lock, waiter, asked, ticket, now + wait)
  return ticket
end

-- The number of waiters, kept entries included.
function queue.count(lock)
  local of_lock = of(lock)
  of_lock.counted = of_lock.counted or redis.call('ZCOUNT', of_lock.kept, '(' .. int(now), '+inf')
  return of_lock.counted + difference(of_lock, function(entry) return now < entry.kept and 1 or 0 end)
end

-- The number of entries ahead of a ticket.
function queue.ahead(lock, ticket)
  local of_lock, limit = of(lock), tonumber(ticket)
  return redis.call('ZCOUNT', of_lock.tickets, '-inf', '(' .. ticket)
    + difference(of_lock, function(entry) return tonumber(entry.ticket) < limit and 1 or 0 end)
end

-- Whether the queue has entries, expired ones included.
function queue.has_entries(lock)
  local of_lock = of(lock)
  return redis.call('ZCARD', of_lock.tickets) + difference(of_lock, function() return 1 end) > 0
end

-- Drops expired entries, a bounded number at a time.
function queue.prune(lock)
  local of_lock = of(lock)
  for _, waiter in ipairs(redis.call('ZRANGEBYSCORE', of_lock.kept, '-inf', int(now), 'LIMIT', 0, MAX_PRUNED)) do
    local known = see(of_lock, waiter)
    if known.before == known.after then set(lock, waiter, nil) end
  end
end

-- 'alive', 'silent' or 'gone'. No server is gone while servers may still look for a newly activated master.
local function state_of(server_id)
  batch.heartbeats = batch.heartbeats or {}
  local state = batch.heartbeats[server_id]
  if not state then
    local reported_to, reported_at = string.match(redis.call('HGET', batch.SERVERS, server_id) or '', '^(%x+) (%d+)')
    if reported_to == batch.activation and now - reported_at <= HEARTBEAT_US then
      state = 'alive'
    else
      local activated = redis.call('HGET', batch.LOCKS, '#activated')
      state = now - activated <= HEARTBEAT_US and 'silent' or 'gone'
    end
    batch.heartbeats[server_id] = state
  end
  return state
end

-- The waiters' ids in the order of their tickets: those in Redis, a step at a time, merged with those of the batch.
local function in_order(of_lock)
  local added, from, step, at = {}, 0, {}, 1
  for waiter, known in pairs(of_lock.seen) do
    if known.after and known.after ~= known.before then
      added[#added + 1] = { waiter = waiter, ticket = tonumber(known.after.ticket) }
    end
  end
  table.sort(added, function(a, b) return a.ticket < b.ticket end)
  local next_added = 1
  local function next_stored()
    while true do
      if at > #step then
        step, at = redis.call('ZRANGE', of_lock.tickets, from, from + STEP - 1), 1
        from = from + STEP
        if #step == 0 then return nil end
      end
      local known = of_lock.seen[step[at]]
      if not known or known.after == known.before then return step[at] end
      at = at + 1
    end
  end
  return function()
    local stored, new = next_stored(), added[next_added]
    if new and not (stored and tonumber(see(of_lock, stored).after.ticket) < new.ticket) then
      next_added = next_added + 1
      return new.waiter
    end
    if stored then at = at + 1 end
    return stored
  end
end

-- Removes the first entry whose request is present; `asking` counts as present.
local function take_first(lock, asking)
  local of_lock = of(lock)
  for waiter in in_order(of_lock) do
    local entry = see(of_lock, waiter).after
    local present = entry and (waiter == asking or now < entry.present)
    local state = present and waiter ~= asking and state_of(entry.server) or 'alive'
    if present and state == 'alive' then
      set(lock, waiter, nil)
      return waiter, entry
    end
    if present and state == 'gone' and entry.idem ~= '' then
      -- Its client may come back to another server.
      queue.keep(lock, waiter, entry, entry.ticket)
    elseif not entry or entry.kept <= now or state == 'gone' then
      set(lock, waiter, nil)
    end
  end
end

-- Reserves a free lock for its first waiter and notifies the waiter's server. Returns the reservation. Does nothing
-- while no lease may be granted.
function queue.reserve(lock, asking)
  if not batch.grants then return nil end
  local waiter, entry = take_first(lock, asking)
  if not waiter then return nil end
  local lease = {
    kind = 'R', token = next_number(), acquired = batch.now_text, deadline = now + RESERVATION_US, grace = '0',
    ttl = entry.ttl, hold = entry.hold, renewals = '0', attempt = entry.attempt, request = entry.request, id = entry.id, idem = entry.idem,
    fingerprint = entry.fingerprint, ticket = entry.ticket, server = entry.server,
  }
  table.insert(lock.leases, lease)
  change(lock)
  if waiter == asking then return lease end
  -- A notification may be lost: the server reads the reservation again with its heartbeat.
  batch.reservations[lock.key] = entry.server .. ' ' .. waiter .. ' ' .. int(lease.deadline)
  if entry.server == batch.server then
    table.insert(batch.notified, lock.key)
    table.insert(batch.notified, waiter)
  else
    table.insert(batch.published, { entry.server, waiter .. ' ' .. lock.key })
  end
  return lease
end

-- Announces for how long at most a lock that others wait for is held. The lease they know may have been longer.
function queue.announce(lock, for_us)
  table.insert(batch.published, { 'all', int(for_us) .. ' ' .. lock.key })
end

-- A free lock goes to its first waiter. While no lease may be granted, the waiters ask again after the pause.
function queue.hand_over(lock)
  if not queue.reserve(lock) and not batch.grants then queue.announce(lock, batch.paused_us) end
end

-- Stores the changes of a queue.
function queue.store(of_lock, attempt)
  local removed, tickets, kept, entries = {}, {}, {}, {}
  for waiter, known in pairs(of_lock.seen) do
    local entry = known.after
    if entry == known.before then
    elseif entry then
      local fields = {
        entry.ticket, entry.server, int(entry.present), int(entry.kept), entry.attempt,
        entry.ttl .. (entry.hold ~= '' and '+' .. entry.hold or ''), entry.request,
      }
      tickets[#tickets + 1], tickets[#tickets + 2] = entry.ticket, waiter
      kept[#kept + 1], kept[#kept + 2] = int(entry.kept), waiter
      entries[#entries + 1], entries[#entries + 2] = waiter, table.concat(fields, '\t')
    else
      removed[#removed + 1] = waiter
    end
  end
  local function store(command, key, arguments)
    if #arguments > 0 then attempt('unknown', command, key, unpack(arguments)) end
  end
  store('ZREM', of_lock.tickets, removed)
  store('ZREM', of_lock.kept, removed)
  store('HDEL', of_lock.entries, removed)
  store('ZADD', of_lock.tickets, tickets)
  store('ZADD', of_lock.kept, kept)
  store('HSET', of_lock.entries, entries)
end

return queue
