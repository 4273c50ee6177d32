import ArgumentParser
BenchCommand.main()
