-- After wrk.lua, where every request shows another credential: `wrk … URL -- FILE` with a header line in each line. All
-- are formatted beforehand, since the load must not cost more than what it measures.
local requests, turn = {}, 0

init = function(arguments)
  for line in io.lines(arguments[1]) do
    local name, value = line:match("^([^:]+): (.*)$")
    wrk.headers[name] = value
    requests[#requests + 1] = wrk.format()
  end
end

request = function()
  turn = turn % #requests + 1
  return requests[turn]
end
