"""`tinykv export` and `import`: all data in one file, and back, between clusters and local databases.

export_file    the format: blocks with checksums; what a killed export left is carried on
exporting      one moment of the transactional data, then the raw data, into a file
importing      checks the whole file, then writes it in portions that can be repeated
commands       the two commands
"""
