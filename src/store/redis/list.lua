-- One step of a walk over the held locks.
-- Key: the prefix of all lock keys. Arguments: cursor of SCAN, pattern, how many keys to look at.
-- Reply: {'page', next cursor, key, holding, key, holding, ...} with whole Redis keys
function verbs.list(call, _, cursor, pattern, count)
  local step = redis.call('SCAN', cursor, 'MATCH', pattern, 'COUNT', count, 'TYPE', 'string')
  local reply = { 'page', step[1] }
  for _, redis_key in ipairs(step[2]) do
    local l = load(redis_key, call)
    if l then
      table.insert(reply, redis_key)
      table.insert(reply, standing_reply('held', queue_of(redis_key, call), '', l, call))
    end
  end
  return reply
end
