-- Every script begins here: a node that is no master does nothing.
local info = redis.call('INFO', 'replication')
if not string.find(info, 'role:master', 1, true) then
  return { 'guard', 'role', string.match(info, 'role:(%a+)') or '' }
end
