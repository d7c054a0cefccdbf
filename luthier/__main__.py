from luthier.cli import main

main()
