-- Who waits for a lock. Mirrors `lock/queue.rs`.
--
-- Sorted sets hold the waiters' ids by ticket and by the moment until which their places are kept, a hash what each of them asks for, fields set apart by
-- tabs: lease id, attempt, TTL, idempotency key, idempotency request, holder, metadata, server, present
-- until, kept until. Besides the rules: a waiter whose server has no heartbeat is passed over, and its
-- place is dropped; a server that lives asks for it again.

local PLACE = '^(%x+)\t(%d+)\t(%d+)\t(%x*)\t(%x*)\t([^\t]*)\t([^\t]*)\t(%x+)\t(%d+)\t(%d+)$'

-- How long a server without a heartbeat counts as there.
local HEARTBEAT_US = 3000000

-- How long a lock is reserved for a waiter whose turn it is.
local RESERVATION_US = 3000000

-- How long the place of a request that may be repeated is kept after it has ended.
local PLACE_KEPT_US = 10000000

-- How many places that are over one operation drops.
local MAX_PRUNED = 64

-- How many places are looked at in one step.
local STEP = 16

-- The set of tickets of a lock.
local function tickets_of(lock_key, call)
  return call.queue_prefix .. sub(lock_key, call.name_at)
end

-- The queue of a lock.
local function queue_of(lock_key, call)
  local name = sub(lock_key, call.name_at)
  return { lock = name, tickets = tickets_of(lock_key, call), places = call.prefix .. 'places:' .. name,
    kept = call.prefix .. 'kept:' .. name }
end

-- How many places the queue of a lock has.
local function places(lock_key, call)
  return call.queues and redis.call('ZCARD', tickets_of(lock_key, call)) or 0
end

local function waiter_id(id, idem)
  return idem ~= '' and idem or id
end

local function load_place(queue, waiter)
  local text = redis.call('HGET', queue.places, waiter)
  if not text then return nil end
  local id, attempt, ttl, idem, request, holder, metadata, server, present, kept = string.match(text, PLACE)
  return {
    id = id, attempt = attempt, ttl = ttl, idem = idem, request = request, holder = holder,
    metadata = metadata, server = server, present = tonumber(present), kept = tonumber(kept),
  }
end

-- Gives a waiter a place until `present`; the one that it had is gone.
local function save_place(queue, waiter, place, ticket, present, call)
  local kept = place.idem ~= '' and present + PLACE_KEPT_US or present
  call.queues = true
  redis.call('ZADD', queue.tickets, ticket, waiter)
  redis.call('HSET', queue.places, waiter, table.concat({
    place.id, place.attempt, place.ttl, place.idem, place.request, place.holder, place.metadata,
    place.server, int(present), int(kept),
  }, '\t'))
  redis.call('ZADD', queue.kept, int(kept), waiter)
  -- Until the last place is nobody's: the three are there together, and live as long.
  local garbage_ms = math.ceil((kept - call.now + call.margin_us) / 1000)
  if redis.call('PTTL', queue.tickets) < garbage_ms then
    redis.call('PEXPIRE', queue.tickets, int(garbage_ms))
    redis.call('PEXPIRE', queue.places, int(garbage_ms))
    redis.call('PEXPIRE', queue.kept, int(garbage_ms))
  end
end

local function drop_place(queue, waiter)
  redis.call('ZREM', queue.tickets, waiter)
  redis.call('HDEL', queue.places, waiter)
  redis.call('ZREM', queue.kept, waiter)
end

-- Drops places that are nobody's any more, some at a time.
local function prune(queue, call)
  for _, waiter in ipairs(redis.call('ZRANGEBYSCORE', queue.kept, '-inf', int(call.now), 'LIMIT', 0, MAX_PRUNED)) do
    drop_place(queue, waiter)
  end
end

-- How many wait, those whose place is kept included.
local function waiters(queue, call)
  return int(redis.call('ZCOUNT', queue.kept, '(' .. int(call.now), '+inf'))
end

-- 'here', 'silent' or 'gone'. Nobody is gone while servers may yet find a newly activated master.
local function server_is(server, call)
  local known = call.heartbeats[server]
  if not known then
    local of, at = string.match(redis.call('HGET', call.servers_key, server) or '', '^(%x+) (%d+)')
    if of == call.activation and call.now - tonumber(at) <= HEARTBEAT_US then
      known = 'here'
    else
      known = call.now - call.activated <= HEARTBEAT_US and 'silent' or 'gone'
    end
    call.heartbeats[server] = known
  end
  return known
end

-- Takes the first waiter who is present, `asking` being so in any case.
local function take_first(queue, asking, call)
  local from = 0
  while true do
    local waiters = redis.call('ZRANGE', queue.tickets, from, from + STEP - 1, 'WITHSCORES')
    if #waiters == 0 then return nil end
    for i = 1, #waiters, 2 do
      local waiter, ticket, place = waiters[i], waiters[i + 1], load_place(queue, waiters[i])
      local present = place and (waiter == asking or call.now < place.present)
      local server = present and waiter ~= asking and server_is(place.server, call) or 'here'
      if present and server == 'here' then
        drop_place(queue, waiter)
        place.waiter, place.ticket = waiter, ticket
        return place
      end
      if present and server == 'gone' and place.idem ~= '' then
        -- Its client may come back to another server.
        save_place(queue, waiter, place, ticket, call.now, call)
        from = from + 1
      elseif not place or place.kept <= call.now or server == 'gone' then
        drop_place(queue, waiter)
      else
        from = from + 1
      end
    end
  end
end

-- Reserves a free lock for the first who waits and tells that waiter's server: the reservation, which the caller saves,
-- or nil. What nobody may be granted now is left for later.
local function reserve(queue, asking, call)
  if not call.grants then return nil end
  local place = take_first(queue, asking, call)
  if not place then return nil end
  local l = {
    id = place.id, token = next_number(call), acquired = call.now_wide, deadline = call.now + RESERVATION_US, ttl = place.ttl,
    renewals = '0', attempt = place.attempt, idem = place.idem, request = place.request, holder = place.holder,
    metadata = place.metadata, reserved = place.ticket, server = place.server,
  }
  if place.waiter == asking then return l end
  -- News may be lost: the server reads this with its next heartbeat.
  redis.call('HSET', call.turns_key, queue.lock, place.server .. ' ' .. place.waiter .. ' ' .. int(l.deadline))
  if place.server == call.server then
    table.insert(call.turns, { queue.lock, place.waiter })
  else
    redis.call('PUBLISH', call.prefix .. 'wake:' .. place.server, place.waiter .. ' ' .. queue.lock)
  end
  return l
end

-- Somebody else's lease or reservation, without its secret and with the moment until which nobody else gets the
-- lock; how many wait for it, and the asking request's ticket or position.
local function standing_reply(outcome, queue, own, l, call)
  return outcome .. '\t' .. waiters(queue, call) .. '\t' .. own .. holding_of(l, l.over_at or l.deadline)
end

-- Tells all servers for how long at most a lock that others wait for is somebody's. Without it they would ask when
-- the lease is over that they know of, which may have been a longer one.
local function announce(queue, for_us, call)
  redis.call('PUBLISH', call.prefix .. 'wake:all', int(for_us) .. ' ' .. queue.lock)
end

-- Lets whoever is next have a lock that was let go, and saves it.
local function pass_on(lock_key, released, call)
  -- After it a script may write although Redis is out of memory: letting go must always work.
  if not call.has_written then remove(lock_key, call) end
  count_lease(lock_key, false, call)
  if places(lock_key, call) == 0 then
    save(lock_key, nil, released, call)
    return
  end
  local queue = queue_of(lock_key, call)
  local l = reserve(queue, nil, call)
  save(lock_key, l, released, call)
  -- Nobody may be granted it now: whoever waits must ask until somebody may.
  if not l and not call.grants then announce(queue, call.paused_us, call) end
end
