-- The one place where a script learns what time it is.
-- Reply: microseconds since the Unix epoch; a double holds them exactly until the year 2255.
local function time_us()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end
