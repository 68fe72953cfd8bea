-- For wrk: each request carries the next of the cookies in $BENCH_COOKIES, a line each; the
-- figures are printed as a line of JSON, times in microseconds.
local requests, turn = {}, 0

function init()
    for cookie in io.lines(os.getenv("BENCH_COOKIES")) do
        requests[#requests + 1] = wrk.format(nil, nil, { ["Cookie"] = cookie })
    end
    if #requests == 0 then requests[1] = wrk.format() end
end

function request()
    turn = turn % #requests + 1
    return requests[turn]
end

function done(summary, latency)
    local e = summary.errors
    io.write(string.format(
        'RESULT {"requests": %d, "us": %d, "p50": %d, "p99": %d, "p999": %d, "errors": %d}\n',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        latency:percentile(99.9), e.connect + e.read + e.write + e.status + e.timeout))
end
