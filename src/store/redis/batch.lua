-- Runs operations one after the other, all or none of them behind one guard.
-- KEYS: the meta hash, then one key for each operation.
-- ARGV: data format of the caller, its activation id, garbage margin, then for each operation its
-- verb, the number of its arguments, and these.
-- Reply: {'ok', now, replicas online, reply, reply, ...}, where an operation that failed has {'error', message};
-- or {'guard', reason, detail} and nothing was done. Reasons: 'role', 'format', 'inactive' (another
-- process or no record: activate first), 'activation' (another server activated: adopt its record).

local info = redis.call('INFO', 'replication')

local function guard(meta_key, format, activation)
  local role = string.match(info, 'role:(%a+)')
  if role ~= 'master' then return 'role', role end
  local stored_format, replid, active = unpack(redis.call('HMGET', meta_key, 'format', 'replid', 'activation'))
  if stored_format and tonumber(stored_format) > tonumber(format) then return 'format', stored_format end
  if replid ~= string.match(info, 'master_replid:(%x+)') then return 'inactive', '' end
  if active ~= activation then return 'activation', active end
end

local reason, detail = guard(KEYS[1], ARGV[1], ARGV[2])
if reason then return { 'guard', reason, detail } end

local call = { now = time_us(), meta_key = KEYS[1], margin_us = tonumber(ARGV[3]) }
local _, replicas_online = string.gsub(info, 'state=online', '')
local reply = { 'ok', int(call.now), int(replicas_online) }
local at = 4
for operation = 2, #KEYS do
  local verb, arguments = ARGV[at], tonumber(ARGV[at + 1])
  local done, result = pcall(verbs[verb], call, KEYS[operation], unpack(ARGV, at + 2, at + 1 + arguments))
  if not done then
    result = { 'error', type(result) == 'table' and result.err or tostring(result) }
  end
  table.insert(reply, result)
  at = at + 2 + arguments
end
return reply
