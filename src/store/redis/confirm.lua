-- A small write after the grants that are to be confirmed: once the replicas have it, they have all
-- that came before it. Guarded like the grants themselves, or the replicas of another life of this
-- node would confirm what they never saw.
-- KEYS: the meta hash. ARGV: activation id.
-- Reply: {'ok'} | {'guard', reason}
local info = redis.call('INFO', 'replication')
if string.match(info, 'role:(%a+)') ~= 'master' then return { 'guard', 'role' } end
local replid, activation = unpack(redis.call('HMGET', KEYS[1], 'replid', 'activation'))
if replid ~= string.match(info, 'master_replid:(%x+)') then return { 'guard', 'inactive' } end
if activation ~= ARGV[1] then return { 'guard', 'activation' } end
redis.call('HINCRBY', KEYS[1], 'rounds', 1)
return { 'ok' }
