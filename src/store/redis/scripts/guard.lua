-- The state of this node, and the record of its activation. Reads the arguments `activation` and the key `LOCKS`.
local info = redis.call('INFO', 'replication')
if not string.find(info, 'role:master', 1, true) then
  return { 'guard', 'role', string.match(info, 'role:(%a+)') or '' }
end
