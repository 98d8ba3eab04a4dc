-- The only place where a script reads the time: microseconds since the Unix epoch, exact in a double until 2255.
local function time_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end
