module example.com/work

go 1.22

require example.com/leasehold v0.0.0

replace example.com/leasehold => ../../../../openapi/clients/go
