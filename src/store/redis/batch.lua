-- Runs operations one after the other behind one guard.
-- KEYS: the meta hash, the hash of servers, the hash of turns, the set of leases, then one key for each operation.
-- ARGV: data format of the caller, its activation id, garbage margin, the caller's estimate of the
-- time, how far it may be off, how far the time may be ahead of it without a step, replicas that must be
-- online for grants and renewals, the skew of clocks, how long leases taken over outlast their deadline by
-- it, the caller's id among the servers, the prefix of all keys, then for each operation its verb and its
-- arguments.
-- Reply: {'ok', now, replicas online, writes, leases found to have run out, {reply, reply, ...},
-- {{lock, waiter}, ...}}; a reply is text, its fields set apart by tabs, or a list (see `list.lua`); that of an operation that failed is error, message, of one
-- that may not run now refused, reason, detail. The last list has the caller's waiters whose turn it is. Or
-- {'guard', reason, detail}, and nothing was done.
-- Reasons of the guard: 'role', 'format', 'activation' (another server activated: adopt its record).
-- Reasons to refuse: 'inactive' (another life of this node, or no record: activate first), 'clock' (the
-- command was late, or the clock stepped), 'replicas' (too few).
-- Letting go needs role and activation alone: nothing that is missing may keep anyone from it.

-- What asks whether the time is right, and what besides must be on replicas.
local timed = { acquire = true, renew = true, inspect = true, list = true }
local replicated = { acquire = true, renew = true }

-- The first key of an operation.
local FIRST = 5

-- How many arguments each has.
local arguments_of = { acquire = 4, renew = 2, release = 1, ['break'] = 1, abandon = 4, inspect = 0, list = 6 }

-- How long after an activation grants wait for the servers to say what they remember.
local REPORTING_US = 1000000

local info = redis.call('INFO', 'replication')
if not find(info, 'role:master', 1, true) then return { 'guard', 'role', match(info, 'role:(%a+)') } end
local format, replid, activation, activated, base, margin_from, recover, unlisted, writes =
  unpack(redis.call('HMGET', KEYS[1], 'format', 'replid', 'activation', 'activated', 'base', 'margin_from', 'recover', 'unlisted', 'writes'))
if format and tonumber(format) > tonumber(ARGV[1]) then return { 'guard', 'format', format } end
if activation ~= ARGV[2] then return { 'guard', 'activation', activation or '' } end

local call = {
  now = time_us(), meta_key = KEYS[1], servers_key = KEYS[2], turns_key = KEYS[3], margin_us = tonumber(ARGV[3]),
  activation = activation, activated = tonumber(activated), server = ARGV[10], prefix = ARGV[11],
  writes = 0, heartbeats = {}, turns = {}, has_written = false,
  numbers_left = 0, leases = {}, over = {}, texts = {}, kept_ms = {},
}
call.now_wide = wide(call.now)
call.queue_prefix, call.name_at = call.prefix .. 'queue:', #call.prefix + #'lock:' + 1
local online, found = 0, find(info, 'state=online', 1, true)
while found do
  online, found = online + 1, find(info, 'state=online', found + 1, true)
end

local refusal = nil
if not replid or not find(info, 'master_replid:' .. replid, 1, true) then
  refusal = 'refused\tinactive\t'
elseif math.abs(call.now - tonumber(ARGV[4])) > tonumber(ARGV[5]) then
  refusal = 'refused\tclock\t' .. int(call.now)
end
local lonely = online < tonumber(ARGV[7]) and 'refused\treplicas\t' .. int(online) or nil

-- What is over by a clock that is ahead of the caller's estimate is not over yet: the clock may have stepped, or
-- the command is late, and then it is as if it had come in time.
call.expired_at = math.min(call.now, tonumber(ARGV[4]) + tonumber(ARGV[6]))
call.expired_wide = wide(call.expired_at)

-- Deadlines of leases taken over were written by another clock, or by this one before a step.
if call.now < tonumber(margin_from) + tonumber(ARGV[9]) then
  call.taken_over_below, call.skew_us = tonumber(base), tonumber(ARGV[8])
end

-- How long no new lease may be granted: until what may have been lost is over, or until all servers
-- have said what they remember.
local function pause()
  if call.now < tonumber(recover) then return tonumber(recover) - call.now end
  local reporting = tonumber(activated) + REPORTING_US - call.now
  if reporting <= 0 or reporting > REPORTING_US then return 0 end
  if unlisted == '1' then return reporting end
  for _, entry in ipairs(redis.call('HVALS', KEYS[2])) do
    if string.match(entry, '^%x+') ~= activation then return reporting end
  end
  return 0
end
call.paused_us = pause()
call.grants = not refusal and not lonely and call.paused_us == 0

-- What all locks have is read at once.
local queues = {}
for operation, text in ipairs(redis.call('MGET', unpack(KEYS, FIRST))) do
  local lock_key = KEYS[FIRST + operation - 1]
  call.texts[lock_key], queues[operation] = text or nil, tickets_of(lock_key, call)
end
-- Mostly nobody waits for any of them.
call.queues = redis.call('EXISTS', unpack(queues)) > 0

local replies = {}
local at = 12
for operation = FIRST, #KEYS do
  local verb = ARGV[at]
  local last = at + arguments_of[verb]
  call.operations_left = #KEYS - operation + 1
  local result = (timed[verb] and refusal) or (replicated[verb] and lonely)
  if not result then
    local done
    done, result = pcall(verbs[verb], call, KEYS[operation], unpack(ARGV, at + 1, last))
    if not done then
      result = 'error\t' .. (type(result) == 'table' and result.err or tostring(result))
    end
  end
  replies[operation - FIRST + 1] = result
  at = last + 1
end

-- Keeps the set of leases, by their deadlines: what it holds, and what ran out of it, is counted with a heartbeat.
local held, ended, expired = {}, {}, 0
for key, deadline in pairs(call.leases) do
  -- It ran out, and the lock went on to somebody else before that was counted.
  if call.over[key] and redis.call('ZSCORE', KEYS[4], key) then expired = expired + 1 end
  if deadline then
    held[#held + 1] = deadline
    held[#held + 1] = key
  else
    ended[#ended + 1] = key
  end
end
if #ended > 0 then redis.call('ZREM', KEYS[4], unpack(ended)) end
if #held > 0 then
  redis.call('ZADD', KEYS[4], unpack(held))
  redis.call('PEXPIRE', KEYS[4], int(math.ceil((tonumber(ARGV[9]) + call.margin_us) / 1000)))
end

-- Counted, so that a node that comes back with fewer is found out.
if call.writes > 0 then writes = redis.call('HINCRBY', KEYS[1], 'writes', call.writes) end
return { 'ok', call.now_wide, int(online), int(writes or 0), int(expired), replies, call.turns }
