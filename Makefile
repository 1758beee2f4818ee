# Every target is a command of ./dev, which needs no make. See `./dev help`.
.PHONY: playground test check bench soak setup fmt

playground test check bench setup fmt:
	@./dev $@

soak:  # for so long: make soak MINUTES=30
	@./dev soak $(if $(MINUTES),--minutes $(MINUTES))
