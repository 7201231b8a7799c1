"""Prompts whose side of the default threshold is beyond dispute, in English and Chinese."""

from __future__ import annotations

from serve_app.core.call import Prompt, Turn

EASY_EN = (
    "Hi!",
    "Good morning, how are you today?",
    "Thanks, that was really helpful.",
    "What's the capital of Australia?",
    "Who wrote Pride and Prejudice?",
    "How tall is Mount Everest?",
    "Tell me a joke about cats.",
    "Translate 'Where is the train station?' into Spanish.",
    "Rewrite this sentence more politely: Send me the report now.",
    "Fix the grammar: he go to school every days",
    "What does HTTP stand for?",
    "Give me a synonym for 'happy'.",
    "What is a deadlock?",
    "Suggest a name for a coffee shop.",
    "Summarize in one sentence: The meeting moved to Friday because the room is being painted.",
    "What should I cook for dinner tonight?",
    "Write a short birthday message for my sister.",
    "What is 15% of 80?",
    "Convert 10 miles to kilometres.",
    "When did the Berlin Wall fall?",
    "Is it 'affect' or 'effect' in 'the rain will ___ traffic'?",
    "List five colours of the rainbow.",
    "What is the difference between a list and a tuple in Python?",
    "How do I reverse a string in Python?",
    "Recommend a good science fiction novel.",
    "Please proofread this email: Dear Bob, I hope your well. See you on monday. Anna",
    "Classify the sentiment of this review as positive or negative: The soup was cold.",
    "What's the weather usually like in Lisbon in May?",
)

EASY_ZH = (
    "你好",
    "早上好，今天过得怎么样？",
    "谢谢，帮了大忙！",
    "中国的首都是哪里？",
    "《红楼梦》的作者是谁？",
    "珠穆朗玛峰有多高？",
    "给我讲个笑话吧。",
    "把“火车站在哪里？”翻译成英文。",
    "把这句话改得更礼貌一些：马上把报告发给我。",
    "帮我看看这句话有没有错别字：他每天都按时去上学。",
    "HTTP 是什么意思？",
    "“高兴”的近义词有哪些？",
    "什么是死锁？",
    "帮我给咖啡店起个名字。",
    "用一句话概括：会议改到周五，因为会议室正在刷漆。",
    "今晚吃什么好？",
    "给妹妹写一句生日祝福。",
    "80 的 15% 是多少？",
    "10 英里等于多少公里？",
    "柏林墙是哪一年倒的？",
    "推荐几本好看的科幻小说。",
    "Python 里列表和元组有什么区别？",
    "用 Python 怎么反转字符串？",
    "帮我写一份在职证明的开头。",
    "判断这条评论是好评还是差评：汤是凉的。",
    "成都有哪些好玩的景点？",
    "“画蛇添足”是什么意思？",
    "给孩子讲一个关于月亮的睡前故事。",
)

HARD_EN = (
    "Prove that the square root of 2 is irrational.",
    "Prove by induction that the sum of the first n odd numbers is n^2.",
    "Find all integer solutions of x^2 - 7y^2 = 1 and justify that there are no others.",
    "Derive the closed form of the ridge regression estimator and discuss its bias and variance.",
    "Evaluate the integral $\\int_0^\\infty x^2 e^{-x} dx$ and show every step.",
    "A train leaves at 9:15 travelling 80 km/h and a second one leaves 40 minutes later at "
    "110 km/h from the same station. After how many minutes does the second catch up, and how "
    "far from the station are they then?",
    "Debug this: my asyncio server deadlocks when two tasks await the same lock.\n"
    "```python\nasync def f():\n    async with lock:\n        await g()\n```",
    'Traceback (most recent call last):\n  File "app.py", line 12, in <module>\n'
    "    main()\nValueError: not enough values to unpack (expected 2, got 1)\n"
    "Why does this only happen in production and how do I fix it?",
    "Design a rate limiter for a distributed API gateway that survives the loss of one data "
    "centre.",
    "Refactor this class so that it is thread-safe without holding the lock during I/O.",
    "Implement an LRU cache in C++ with O(1) get and put, a capacity in bytes, and no memory "
    "leaks on exceptions.",
    "What is the time complexity of this algorithm, and can it be improved to O(n log n)?\n"
    "for i in range(n):\n    for j in range(i):\n        if a[j] > a[i]: count += 1",
    "Compare event sourcing with CRUD for a payments ledger: consistency, auditability, cost. "
    "Recommend one and justify the trade-offs.",
    "Analyse the root cause of this outage from the log below and propose three mitigations "
    "ranked by risk.",
    "Schedule 6 nurses over 14 days so that each works at most 5 days in a row, at least 2 are "
    "on every night shift, and nobody works a day after a night. Is it feasible?",
    "Write a SQL query that returns, for each customer, the longest streak of consecutive days "
    "with an order, using window functions only.",
    "Find the eigenvalues and eigenvectors of the matrix [[2, 1], [1, 3]] and diagonalise it.",
    "Three boxes hold red and blue balls. Box A has 3 red and 5 blue, box B 4 red and 4 blue, "
    "box C 6 red and 2 blue. A ball drawn from a random box is red. What is the probability "
    "that it came from box C?",
    "Critically evaluate the argument that free will is incompatible with determinism, give the "
    "strongest objection, and respond to it.",
    "Draft a migration plan from a monolith to microservices with no downtime: phases, rollback "
    "for each phase, data consistency, and how we test it.",
    "Five people sit in a row. Anna is not next to Ben, Carl is left of Dora, and Eve sits at an "
    "end. How many seatings satisfy all the conditions?",
    "Give a counterexample or a proof: every bounded sequence of reals has a convergent "
    "subsequence whose limit lies in the closure.",
    "Review this patch for race conditions and memory-ordering bugs, and suggest a minimal fix.",
    "Solve the differential equation y'' + 4y = sin(2x) with y(0) = 0 and y'(0) = 1.",
    "Write a parser for arithmetic expressions with precedence, unary minus and parentheses, "
    "with error recovery and unit tests. It must not use recursion.",
    "Explain why this Rust code does not compile and restructure the lifetimes:\n"
    "fn longest(a: &str, b: &str) -> &str { if a.len() > b.len() { a } else { b } }",
    "Our Postgres query went from 20 ms to 9 s after adding a join. Here is EXPLAIN ANALYZE. "
    "Which index is missing, and how would you verify it without locking the table?",
    "Model the spread of a disease with SIR equations, linearise around the equilibrium, and "
    "determine when it is stable.",
)

HARD_ZH = (
    "证明根号 2 是无理数。",
    "用数学归纳法证明：前 n 个奇数之和等于 n^2。",
    "求方程 x^2 - 7y^2 = 1 的所有整数解，并说明没有其他解。",
    "推导岭回归估计量的闭式解，并讨论它的偏差和方差。",
    "计算定积分 $\\int_0^1 x \\ln x \\, dx$，写出每一步。",
    "甲车 9:15 出发，时速 80 公里；乙车 40 分钟后从同一车站出发，时速 110 公里。"
    "乙车多少分钟后追上甲车？此时离车站多远？",
    "帮我调试：两个协程同时等待同一把锁时，我的 asyncio 服务会死锁。\n"
    "```python\nasync def f():\n    async with lock:\n        await g()\n```",
    "线上服务每隔几小时内存就涨满，下面是堆栈和 GC 日志，请排查根本原因并给出修复方案。",
    "设计一个分布式限流系统，要求单个机房故障时仍然可用，并说明一致性如何取舍。",
    "重构这个类，使它线程安全，并且在 I/O 期间不持有锁。",
    "用 C++ 实现一个 LRU 缓存，get 和 put 的时间复杂度都是 O(1)，不能有内存泄漏。",
    "分析下面算法的时间复杂度，并优化到 O(n log n)。\n"
    "for i in range(n):\n    for j in range(i):\n        if a[j] > a[i]: count += 1",
    "比较事件溯源与 CRUD 在支付账本中的一致性、可审计性和成本，权衡利弊后给出建议并说明理由。",
    "给 6 名护士排 14 天的班：每人连续工作不得超过 5 天，每个夜班至少 2 人，"
    "夜班之后不能接白班。是否存在可行方案？",
    "写一条 SQL，只用窗口函数，求每个客户连续下单的最长天数。",
    "求矩阵 [[2, 1], [1, 3]] 的特征值和特征向量，并将其对角化。",
    "盒子 A 有 3 红 5 蓝，B 有 4 红 4 蓝，C 有 6 红 2 蓝。随机选一个盒子抽到红球，"
    "求它来自 C 的概率。",
    "批判性地评价“自由意志与决定论不相容”这一论证，给出最有力的反驳并作出回应。",
    "制定从单体架构迁移到微服务的方案：分阶段、每阶段可回滚、不停机，并保证数据一致性。",
    "五个人排成一排，甲不与乙相邻，丙在丁左边，戊站在一端，共有多少种排法？",
    "若命题成立请给出证明，否则举出反例：任意有界实数列都有收敛子列。",
    "审查这个补丁里的竞态条件和内存序问题，并给出最小修改。",
    "求解微分方程 y'' + 4y = sin(2x)，其中 y(0) = 0，y'(0) = 1。",
    "动态规划：给定 n 个物品和容量 W 的背包，写出状态转移方程并优化空间复杂度。",
    "下面这段 Java 代码抛出 ConcurrentModificationException，解释原因并修改：\n"
    "for (String s : list) { if (s.isEmpty()) { list.remove(s); } }",
    "设函数 f(x) = x^3 - 3ax + 2，讨论其单调性，并求 a 的取值范围使 f 有三个零点。",
    "从下列条款中找出相互矛盾之处，逐条分析法律风险，并起草同时满足三方要求的修订条款。",
    "为跨境支付系统设计数据库分库分表方案，要求支持幂等、对账和不停机扩容。",
)

DO_IT = Turn("user", "Do it")
AROUND = {
    "tools": Prompt((DO_IT,), tools=4),
    "schema": Prompt((DO_IT,), schema=True),
    "images": Prompt((DO_IT,), images=1),
    "reasoning": Prompt((DO_IT,), reasoning=True),
    "tool turn": Prompt((DO_IT, Turn("tool", "ok"))),
    "assistant code": Prompt((Turn("assistant", "```"), DO_IT)),
}
"""One ask in calls that make it a harder one."""
