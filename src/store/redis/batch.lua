-- Runs operations one after the other behind one guard.
-- KEYS: the meta hash, the hash of servers, the hash of turns, then one key for each operation.
-- ARGV: data format of the caller, its activation id, garbage margin, the caller's estimate of the
-- time, how far it may be off, how far the time may be ahead of it without a step, replicas that must be
-- online for grants and renewals, the skew of clocks, how long leases taken over outlast their deadline by
-- it, the caller's id among the servers, the prefix of all keys, the longest wait, then for each operation its
-- verb, the number of its arguments, and these.
-- Reply: {'ok', now, replicas online, writes, {reply, reply, ...}, {{lock, waiter}, ...}}, where an operation
-- that failed has {'error', message} and one that may not run now {'refused', reason, detail}, and the last list
-- has the caller's waiters whose turn it is; or {'guard', reason, detail} and nothing was done.
-- Reasons of the guard: 'role', 'format', 'activation' (another server activated: adopt its record).
-- Reasons to refuse: 'inactive' (another life of this node, or no record: activate first), 'clock' (the
-- command was late, or the clock stepped), 'replicas' (too few).
-- Letting go needs role and activation alone: nothing that is missing may keep anyone from it.

-- What asks whether the time is right, and what besides must be on replicas.
local timed = { acquire = true, renew = true, inspect = true, list = true }
local replicated = { acquire = true, renew = true }

-- How long after an activation grants wait for the servers to say what they remember.
local REPORTING_US = 1000000

local info = redis.call('INFO', 'replication')
local role = string.match(info, 'role:(%a+)')
if role ~= 'master' then return { 'guard', 'role', role } end
local format, replid, activation, activated, base, margin_from, recover, unlisted =
  unpack(redis.call('HMGET', KEYS[1], 'format', 'replid', 'activation', 'activated', 'base', 'margin_from', 'recover', 'unlisted'))
if format and tonumber(format) > tonumber(ARGV[1]) then return { 'guard', 'format', format } end
if activation ~= ARGV[2] then return { 'guard', 'activation', activation or '' } end

local call = {
  now = time_us(), meta_key = KEYS[1], servers_key = KEYS[2], turns_key = KEYS[3], margin_us = tonumber(ARGV[3]),
  activation = activation, activated = tonumber(activated), server = ARGV[10], prefix = ARGV[11],
  max_wait_us = tonumber(ARGV[12]), writes = 0, heartbeats = {}, turns = {},
}
local _, online = string.gsub(info, 'state=online', '')

local refusal = nil
if replid ~= string.match(info, 'master_replid:(%x+)') then
  refusal = { 'refused', 'inactive', '' }
elseif math.abs(call.now - tonumber(ARGV[4])) > tonumber(ARGV[5]) then
  refusal = { 'refused', 'clock', int(call.now) }
end
local lonely = online < tonumber(ARGV[7]) and { 'refused', 'replicas', int(online) } or nil

-- What is over by a clock that is ahead of the caller's estimate is not over yet: the clock may have stepped, or
-- the command is late, and then it is as if it had come in time.
call.expired_at = math.min(call.now, tonumber(ARGV[4]) + tonumber(ARGV[6]))

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

local replies = {}
local at = 13
for operation = 4, #KEYS do
  local verb, arguments = ARGV[at], tonumber(ARGV[at + 1])
  local result = (timed[verb] and refusal) or (replicated[verb] and lonely)
  if not result then
    local done
    done, result = pcall(verbs[verb], call, KEYS[operation], unpack(ARGV, at + 2, at + 1 + arguments))
    if not done then
      result = { 'error', type(result) == 'table' and result.err or tostring(result) }
    end
  end
  table.insert(replies, result)
  at = at + 2 + arguments
end
-- Counted, so that a node that comes back with fewer is found out.
local writes
if call.writes > 0 then
  writes = redis.call('HINCRBY', KEYS[1], 'writes', call.writes)
else
  writes = tonumber(redis.call('HGET', KEYS[1], 'writes')) or 0
end
return { 'ok', int(call.now), int(online), int(writes), replies, call.turns }
