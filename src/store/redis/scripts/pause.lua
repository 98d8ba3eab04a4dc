-- For how long no new lease may be granted: until lost leases are over, or until all servers have reported.
local function pause_us(locks, servers, activation, now)
  local activated, recover, unlisted = unpack(redis.call('HMGET', locks, '#activated', '#recover', '#unlisted'))
  if now < tonumber(recover) then return recover - now end
  local reporting = activated + REPORTING_US - now
  if reporting <= 0 or reporting > REPORTING_US then return 0 end
  if unlisted == '1' then return reporting end
  for _, report in ipairs(redis.call('HVALS', servers)) do
    if string.match(report, '^%x+') ~= activation then return reporting end
  end
  return 0
end
