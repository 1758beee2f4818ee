# Every target is a command of ./dev, which needs no make. See `./dev help`. Arguments: `make soak ARGS="--minutes 30"`.
.PHONY: playground test check bench soak setup fmt

playground test check bench soak setup fmt:
	@./dev $@ $(ARGS)
