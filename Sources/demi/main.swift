import Glibc

exit(Demi.run(Array(CommandLine.arguments.dropFirst())))
