-- A small write after the grants that replicas confirm: a replica that has it has all writes before it. The guard is
-- that of the grants: the replicas of another life of this node never had them.
-- KEYS: locks. ARGV: activation id. Reply: {'ok', replicas online} | {'guard', reason, ''}
local replid, activation = unpack(redis.call('HMGET', KEYS[1], '#replid', '#activation'))
if replid ~= string.match(info, 'master_replid:(%x+)') then return { 'guard', 'inactive', '' } end
if activation ~= ARGV[1] then return { 'guard', 'activation', '' } end
redis.call('HINCRBY', KEYS[1], '#rounds', 1)
local _, online = string.gsub(info, 'state=online', '')
return { 'ok', tostring(online) }
